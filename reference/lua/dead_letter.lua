-- Count that the memory agent refused a batch. Called by absorb when `send` raised. Past the limit a batch of several
-- is taken apart, so that each message goes alone; a message alone becomes a dead letter, and that it is missing
-- stands in its place in the queue. A dead letter keeps its images: they count as one message that shows them.
-- KEYS  1 queue  2 messages  3 state  4 the claim's lease  5 dead  6 reasons  7 uploads
-- ARGV  1 batch id  2 fence  3 refusals allowed  4 reason  5 record of a missing message (JSON)
-- Reply 'again', 'apart', 'dead'; 'counted' when sent again; 'stale' where the batch is another's: nothing was written
if redis.call('HGET', KEYS[3], 'fence') ~= ARGV[2] then return 'stale' end
if redis.call('HGET', KEYS[3], 'refused') == ARGV[2] then return 'counted' end
if redis.call('HGET', KEYS[3], 'batch') ~= ARGV[1] then return 'stale' end

redis.call('PERSIST', KEYS[3]) -- no change: a full server refuses a script's first write alone
redis.call('HSET', KEYS[3], 'refused', ARGV[2])
local refusals = redis.call('HINCRBY', KEYS[3], 'refusals', 1)
redis.call('DEL', KEYS[4]) -- as in ack.lua
if refusals < tonumber(ARGV[3]) then return 'again' end

local size = tonumber(redis.call('HGET', KEYS[3], 'size'))
redis.call('HDEL', KEYS[3], 'batch', 'size', 'refusals')
if size > 1 then
  redis.call('HSET', KEYS[3], 'alone', size)
  return 'apart'
end
local id = redis.call('LINDEX', KEYS[1], 0)
if redis.call('HEXISTS', KEYS[5], id) == 1 then -- even that it is missing was refused: the list alone tells of it
  redis.call('LPOP', KEYS[1])
  redis.call('HDEL', KEYS[2], id)
  redis.call('HSET', KEYS[3], 'alone', math.max(0, tonumber(redis.call('HGET', KEYS[3], 'alone') or 0) - 1))
else
  redis.call('HSET', KEYS[5], id, redis.call('HGET', KEYS[2], id))
  redis.call('HSET', KEYS[6], id, ARGV[4])
  redis.call('HSET', KEYS[2], id, ARGV[5])
  local shown = redis.call('HGET', KEYS[7], '/of/' .. id)
  redis.call('HDEL', KEYS[7], '/of/' .. id)
  if shown then redis.call('HSET', KEYS[7], '/dead/' .. id, shown) end
end
return 'dead'
