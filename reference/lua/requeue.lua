-- Put a dead letter at the end of its user's queue, as a new message. Called by an operator.
-- KEYS  1 queue  2 messages  3 state  4 dead  5 reasons  6 the message's done record  7 uploads
-- ARGV  1 message id
-- Reply 1, also when sent again; 0 where there is none; -1 while its user's queue has still to tell that it is missing
local record = redis.call('HGET', KEYS[4], ARGV[1])
local queued = redis.call('HEXISTS', KEYS[2], ARGV[1])
if not record then return queued end
if queued == 1 then return -1 end
redis.call('HSET', KEYS[2], ARGV[1], record)
redis.call('RPUSH', KEYS[1], ARGV[1])
local shown = redis.call('HGET', KEYS[7], '/dead/' .. ARGV[1])
if shown then redis.call('HSET', KEYS[7], '/of/' .. ARGV[1], shown) end
redis.call('HDEL', KEYS[7], '/dead/' .. ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[1])
redis.call('DEL', KEYS[6])
redis.call('PERSIST', KEYS[3])
return 1
