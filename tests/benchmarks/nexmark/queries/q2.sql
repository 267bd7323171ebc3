-- The bids on some of the auctions.
select auction, price
from bid
where auction % 123 = 0
