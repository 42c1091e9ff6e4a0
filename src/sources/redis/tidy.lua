-- Removes consumers of ours that have nothing and have not asked for long. One that lives after all is made again when it asks.
-- KEYS: stream. ARGV: group, what their names begin with, for how long in ms.
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local of = {}
    for at = 1, #info, 2 do
        of[info[at]] = info[at + 1]
    end
    if of.pending == 0 and of.idle >= tonumber(ARGV[3]) and of.name:sub(1, #ARGV[2]) == ARGV[2] then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], of.name)
    end
end
return redis.status_reply('OK')
