-- What new people sell in the 10 s in which they joined: a row for each auction, as in the original paper. (Flink's version
-- says each person once.)
select person.id, person.name, auction.id as auction, auction.reserve
from person
join auction
    on auction.seller = person.id
    and auction.dateTime - auction.dateTime % 10000 = person.dateTime - person.dateTime % 10000
