-- Put a dead letter at the end of its user's queue, as a new message. Called by an operator.
-- KEYS  1 queue  2 messages  3 dead  4 the message's done record
-- ARGV  1 message id
-- Reply 1, also when sent again; 0 where there is none; -1 while its user's queue has still to tell that it is missing
local held = redis.call('HMGET', KEYS[3], 'record/' .. ARGV[1], 'uploads/' .. ARGV[1])
local queued = redis.call('HEXISTS', KEYS[2], 'record/' .. ARGV[1])
if not held[1] then return queued end
if queued == 1 then return -1 end
redis.call('HSET', KEYS[2], 'record/' .. ARGV[1], held[1], 'uploads/' .. ARGV[1], held[2] or '')
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], 'record/' .. ARGV[1], 'uploads/' .. ARGV[1], 'reason/' .. ARGV[1])
redis.call('DEL', KEYS[4])
return 1
