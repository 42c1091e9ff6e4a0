-- Jobs of consumers of which nothing was heard for so long; those that were handed out too often go to the dead.
-- KEYS: stream, dead. ARGV: group, consumer, silence in ms, room, deliveries, from where.
local stream, group, room, most = KEYS[1], ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local dead = {}
for _, entry in ipairs(redis.call('XPENDING', stream, group, 'IDLE', ARGV[3], ARGV[6], '+', room)) do
    local id, consumer, idle, deliveries = unpack(entry)
    if deliveries >= most then
        local blame = {
            'id', id, 'deliveries', deliveries, 'consumer', consumer, 'idle_ms', idle,
            'error', 'handed out ' .. deliveries .. ' times and never finished, the last time by ' .. consumer,
        }
        local found = redis.call('XRANGE', stream, id, id)[1]
        for _, field in ipairs(found and found[2] or {}) do
            blame[#blame + 1] = field
        end
        redis.call('XADD', KEYS[2], '*', unpack(blame))
        redis.call('XACK', stream, group, id)
        redis.call('XDEL', stream, id)
        dead[#dead + 1] = { id, consumer }
        room = room - 1
    end
end
if room == 0 then
    return { ARGV[6], {}, dead }
end
local claimed = redis.call('XAUTOCLAIM', stream, group, ARGV[2], ARGV[3], ARGV[6], 'COUNT', room)
local jobs = {}
for _, entry in ipairs(claimed[2]) do
    local id, fields = entry[1], entry[2]
    local job = false
    for at = 1, #fields, 2 do
        if fields[at] == 'job' then
            job = fields[at + 1]
        end
    end
    -- How often it was handed out by now is what tells this delivery from the others.
    jobs[#jobs + 1] = { id, redis.call('XPENDING', stream, group, id, id, 1)[1][4], job }
end
return { claimed[1], jobs, dead }
