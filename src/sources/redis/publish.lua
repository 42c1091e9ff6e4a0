-- Results of jobs that are still ours, and with them the end of these jobs.
-- KEYS: stream, results. ARGV: group, consumer, most results ('0': no limit), then of each: id, deliveries, status, result.
local stream, group = KEYS[1], ARGV[1]
local stored = 0
for at = 4, #ARGV, 4 do
    local id = ARGV[at]
    local held = redis.call('XPENDING', stream, group, id, id, 1)[1]
    if held and held[2] == ARGV[2] and held[4] == tonumber(ARGV[at + 1]) then
        local result = { 'job', id, 'status', ARGV[at + 2], 'result', ARGV[at + 3] }
        if ARGV[3] == '0' then
            redis.call('XADD', KEYS[2], '*', unpack(result))
        else
            redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(result))
        end
        redis.call('XACK', stream, group, id)
        redis.call('XDEL', stream, id)
        stored = stored + 1
    end
end
return stored
