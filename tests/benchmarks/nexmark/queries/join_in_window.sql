-- Bids with their auctions, opened in the same 10 s: not of Nexmark, a join whose speed is measured.
select bid.auction, bid.bidder, bid.price, auction.category, auction.seller
from bid
join auction
    on bid.auction = auction.id
    and bid.dateTime - bid.dateTime % 10000 = auction.dateTime - auction.dateTime % 10000
