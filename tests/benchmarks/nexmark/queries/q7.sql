-- The highest bid of every 10 s; all of them, if several have the same price.
select auction, bidder, price, dateTime, dateTime - dateTime % 10000 + 10000 as window_end
from bid
qualify price = max(price) over (partition by dateTime - dateTime % 10000)
