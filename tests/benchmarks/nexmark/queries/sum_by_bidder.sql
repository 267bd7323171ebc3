-- What each bidder offers in every 10 s: not of Nexmark, the sum whose speed is measured.
select
    bidder,
    sum(price)::bigint as offered,
    dateTime - dateTime % 10000 as window_start,
    dateTime - dateTime % 10000 + 10000 as window_end
from bid
group by all
