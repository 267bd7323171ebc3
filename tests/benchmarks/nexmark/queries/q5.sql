-- The auctions with the most bids in the last 10 s, every 2 s; all of them, if several have equally many.
with counts as (
    select auction, count(*) as bids, window_start
    from (
        select auction, unnest(range(dateTime - dateTime % 2000 - 8000, dateTime + 1, 2000)) as window_start
        from bid
    )
    group by all
)
select auction, bids, window_start + 10000 as window_end
from counts
qualify bids = max(bids) over (partition by window_start)
