-- The first half of q7: the highest price of every 10 s, without the bids that offer it.
select
    max(price) as price,
    dateTime - dateTime % 10000 as window_start,
    dateTime - dateTime % 10000 + 10000 as window_end
from bid
group by all
