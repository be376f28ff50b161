-- Take one message in, whole or not at all. Called by add_message; may be sent again at any time.
-- KEYS  1 queue  2 messages  3 uploads  4 bytes  5 state  6 the message's lease  7 its done record  8 dead
-- ARGV  1 message id  2 record (JSON)  3 holder  4 lease in ms  5 most bytes kept a user  6 number of new images,
--       then for each new image: upload id, status (JSON), bytes ('' where they are not kept),
--       then for each image of an earlier message: upload id, its status where that has left the hash ('' if not known)
-- Fields of `uploads`: <upload id> its status, <upload id>/more how many messages show it beside the one that brought
--       it in, /of/<message id> its uploads
-- Reply {'accepted'}  {'known', record, 'mine' where the caller still has the message's lease}  {'done', done record}
--       {'full', bytes kept}  {'unknown', upload ids that nobody has}; only the first has written anything
local record = redis.call('HGET', KEYS[2], ARGV[1])
if record then
  redis.call('HSET', KEYS[2], ARGV[1], record) -- changes nothing, but gives the WAIT after it something to wait for
  return {'known', record, redis.call('GET', KEYS[6]) == ARGV[3] and 'mine' or ''}
end
local dead = redis.call('HGET', KEYS[8], ARGV[1])
if dead then return {'known', dead, ''} end
local done = redis.call('GET', KEYS[7])
if done then return {'done', done} end

local last = 6 + 3 * tonumber(ARGV[6])
local added = 0
for i = 7, last, 3 do added = added + #ARGV[i + 2] end
local kept = added > 0 and tonumber(redis.call('HGET', KEYS[5], 'kept') or 0)
if kept and kept + added > tonumber(ARGV[5]) then return {'full', kept} end
local unknown = {'unknown'}
for i = last + 1, #ARGV, 2 do
  if ARGV[i + 1] == '' and redis.call('HEXISTS', KEYS[3], ARGV[i]) == 0 then unknown[#unknown + 1] = ARGV[i] end
end
if #unknown > 1 then return unknown end

redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('RPUSH', KEYS[1], ARGV[1])
local shown = {}
for i = 7, last, 3 do
  shown[#shown + 1] = ARGV[i]
  if redis.call('HSETNX', KEYS[3], ARGV[i], ARGV[i + 1]) == 0 then -- an earlier message's, which another one shows
    redis.call('HINCRBY', KEYS[3], ARGV[i] .. '/more', 1)
  end
  if ARGV[i + 2] ~= '' then redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 2]) end
end
for i = last + 1, #ARGV, 2 do
  shown[#shown + 1] = ARGV[i]
  if ARGV[i + 1] == '' or redis.call('HSETNX', KEYS[3], ARGV[i], ARGV[i + 1]) == 0 then
    redis.call('HINCRBY', KEYS[3], ARGV[i] .. '/more', 1)
  end
end
if #shown > 0 then redis.call('HSET', KEYS[3], '/of/' .. ARGV[1], table.concat(shown, ' ')) end
if added > 0 then
  redis.call('HINCRBY', KEYS[5], 'kept', added)
  redis.call('PERSIST', KEYS[5])
end
if last > 6 then redis.call('SET', KEYS[6], ARGV[3], 'PX', ARGV[4]) end
return {'accepted'}
