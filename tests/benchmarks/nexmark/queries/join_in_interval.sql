-- Bids with their auctions, opened at most 10 s before: not of Nexmark, a join whose speed is measured.
select bid.auction, bid.bidder, bid.price, auction.category, auction.seller
from bid
join auction on bid.auction = auction.id and auction.dateTime between bid.dateTime - 10000 and bid.dateTime
