-- Every bid as it is.
select auction, bidder, price, channel, url, dateTime, extra
from bid
