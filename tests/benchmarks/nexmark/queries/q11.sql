-- Bids of each bidder in sessions: a gap of more than 10 s begins a new one. A session ends 10 s after its last bid.
with marked as (
    select
        bidder,
        dateTime,
        coalesce(dateTime - lag(dateTime) over (partition by bidder order by dateTime) > 10000, true) as begins
    from bid
),
numbered as (
    select
        bidder,
        dateTime,
        sum(begins::int) over (partition by bidder order by dateTime range unbounded preceding) as session
    from marked
)
select bidder, count(*) as bids, min(dateTime) as window_start, max(dateTime) + 10000 as window_end
from numbered
group by bidder, session
