-- Every bid, its price in another currency (as doubles: a decimal product would be another number).
select auction, price::double * 0.908::double as price, bidder, dateTime, extra
from bid
