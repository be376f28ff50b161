#!lua flags=allow-oom
-- Count that the memory agent refused a batch. Called by absorb when `send` raised. Past the limit a batch of several
-- is taken apart, so that each message goes alone; a message alone becomes a dead letter, and that it is missing
-- stands in its place in the queue. A dead letter keeps its images: they count as one message that shows them.
-- KEYS  1 queue  2 messages  3 state  4 the claim's lease  5 dead
-- ARGV  1 fence  2 refusals allowed  3 reason  4 record of a missing message (JSON)
-- Reply 'again', 'apart', 'dead'; 'counted' when sent again; 'stale' where the batch is another's: nothing was written
local state = redis.call('HMGET', KEYS[3], 'fence', 'acked', 'refused', 'size', 'alone')
if state[1] ~= ARGV[1] or state[2] == ARGV[1] then return 'stale' end
if state[3] == ARGV[1] then return 'counted' end

redis.call('HSET', KEYS[3], 'refused', ARGV[1])
local refusals = redis.call('HINCRBY', KEYS[3], 'refusals', 1)
redis.call('DEL', KEYS[4]) -- as in ack.lua
if refusals < tonumber(ARGV[2]) then return 'again' end

local size = tonumber(state[4])
redis.call('HSET', KEYS[3], 'size', 0, 'refusals', 0)
if size > 1 then
  redis.call('HSET', KEYS[3], 'alone', size)
  return 'apart'
end
local id = redis.call('LINDEX', KEYS[1], 0)
local held = redis.call('HMGET', KEYS[2], 'record/' .. id, 'uploads/' .. id)
local told = redis.call('HSETNX', KEYS[5], 'record/' .. id, held[1]) == 0
if held[2] then redis.call('HSET', KEYS[5], 'uploads/' .. id, held[2]) end
redis.call('HDEL', KEYS[2], 'record/' .. id, 'uploads/' .. id)
if told then -- even that it is missing was refused: the list alone tells of it
  redis.call('LPOP', KEYS[1])
  redis.call('HSET', KEYS[3], 'alone', math.max(0, tonumber(state[5] or 0) - 1))
else
  redis.call('HSET', KEYS[5], 'reason/' .. id, ARGV[3])
  redis.call('HSET', KEYS[2], 'record/' .. id, ARGV[4])
end
return 'dead'
