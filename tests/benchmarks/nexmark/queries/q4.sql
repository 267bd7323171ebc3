-- The average closing price of each category: the highest bid of each auction between its opening and its end counts.
-- The original averages over all auctions so far and corrects itself with every bid. Here every auction counts once, in the
-- window of 10 s in which it closes: 60 s after its last bid, which is later than the end of any auction.
with closed as (
    select auction.category, max(bid.price) as price, max(bid.dateTime) + 60000 as closed_at
    from auction
    join bid on bid.auction = auction.id and bid.dateTime between auction.dateTime and auction.expires
    group by auction.id, auction.category
)
select
    category,
    avg(price) as average_price,
    closed_at - closed_at % 10000 as window_start,
    closed_at - closed_at % 10000 + 10000 as window_end
from closed
group by all
