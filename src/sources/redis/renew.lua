-- Begins the leases of jobs that are still ours anew, or ends them now. Returns which are not ours.
-- KEYS: stream. ARGV: group, consumer, '' or how long they are to have been silent, then of each: id, deliveries.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local lost = {}
for at = 4, #ARGV, 2 do
    local id, deliveries = ARGV[at], tonumber(ARGV[at + 1])
    local held = redis.call('XPENDING', stream, group, id, id, 1)[1]
    if not held or held[2] ~= consumer or held[4] ~= deliveries then
        lost[#lost + 1] = (at - 4) / 2
    elseif ARGV[3] == '' then
        redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
    else
        -- This delivery was none.
        redis.call('XCLAIM', stream, group, consumer, 0, id, 'IDLE', ARGV[3], 'RETRYCOUNT', deliveries - 1, 'JUSTID')
    end
end
return lost
