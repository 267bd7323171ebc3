-- Bids within a range of prices, by the part of the day they were made in.
select
    auction,
    bidder,
    price::double * 0.908::double as price,
    case
        when hour_of_day between 8 and 18 then 'dayTime'
        when hour_of_day <= 6 or hour_of_day >= 20 then 'nightTime'
        else 'otherTime'
    end as bidTimeType,
    dateTime,
    extra,
    length(extra) - length(replace(extra, 'c', '')) as c_counts
from (select *, dateTime // 3600000 % 24 as hour_of_day from bid)
where price::double * 0.908::double > 1000000 and price::double * 0.908::double < 50000000
