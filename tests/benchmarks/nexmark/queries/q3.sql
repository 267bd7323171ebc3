-- Who sells things of category 10 in Oregon, Idaho or California. All time counts: an auction may come before its seller.
select person.name, person.city, person.state, auction.id
from auction
join person on auction.seller = person.id
where auction.category = 10 and person.state in ('OR', 'ID', 'CA')
