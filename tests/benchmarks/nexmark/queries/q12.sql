-- Bids of each bidder in every 10 s. The original goes by the time of processing; here it is the time of the bids, so that
-- there is one right answer.
select
    bidder,
    count(*) as bids,
    dateTime - dateTime % 10000 as window_start,
    dateTime - dateTime % 10000 + 10000 as window_end
from bid
group by all
