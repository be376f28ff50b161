#!lua flags=allow-oom
-- Begin a further attempt at an upload: one's own again, or that of a pod whose lease has lapsed.
-- KEYS  1 the lease of the message that brought the image in  2 uploads  3 bytes
-- ARGV  1 upload id  2 holder  3 lease in ms  4 id of this attempt: sent again, it is not counted again
-- Reply {which attempt this is, the first being 1; status (JSON); bytes or ''}
--       {0} where another pod has the lease, or there is nothing left to do
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[2] then return {0} end
local status = redis.call('HGET', KEYS[2], ARGV[1])
local ok, now = pcall(cjson.decode, status or '')
if not (ok and type(now) == 'table' and now.status == 'pending') then return {0} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if redis.call('HGET', KEYS[2], ARGV[1] .. '/taken') ~= ARGV[4] then
  redis.call('HSET', KEYS[2], ARGV[1] .. '/taken', ARGV[4])
  redis.call('HINCRBY', KEYS[2], ARGV[1] .. '/attempts', 1)
end
return {1 + redis.call('HGET', KEYS[2], ARGV[1] .. '/attempts'), status, redis.call('HGET', KEYS[3], ARGV[1]) or ''}
