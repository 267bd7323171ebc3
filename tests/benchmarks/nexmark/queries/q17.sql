-- Figures of each auction's bids by day.
select
    auction,
    count(*) as total_bids,
    count(*) filter (price < 10000) as rank1_bids,
    count(*) filter (price >= 10000 and price < 1000000) as rank2_bids,
    count(*) filter (price >= 1000000) as rank3_bids,
    min(price) as min_price,
    max(price) as max_price,
    avg(price) as avg_price,
    sum(price)::bigint as sum_price,
    dateTime - dateTime % 86400000 as window_start,
    dateTime - dateTime % 86400000 + 86400000 as window_end
from bid
group by all
