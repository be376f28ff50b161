-- Take one message in, whole or not at all. Called by add_message; may be sent again at any time.
-- KEYS  1 queue  2 messages  3 the message's done record  4 dead; of a message with images also
--       5 uploads  6 the message's lease; where bytes of them are kept also  7 bytes  8 state
-- ARGV  1 message id  2 record (JSON)  3 holder  4 lease in ms  5 most bytes kept a user  6 number of new images,
--       then for each new image: upload id, status (JSON), bytes ('' where they are not kept),
--       then for each image of an earlier message: upload id, its status where that has left the hash ('' if not known)
-- Reply {'accepted'}  {'known', record, 'mine' where the caller still has the message's lease}  {'done', done record}
--       {'full', bytes kept}  {'unknown', upload ids that nobody has}; only the first has written anything
local record = redis.call('HGET', KEYS[2], 'record/' .. ARGV[1])
if record then
  redis.call('HSET', KEYS[2], 'record/' .. ARGV[1], record) -- no change, but gives the WAIT after it something to wait for
  return {'known', record, #KEYS > 4 and redis.call('GET', KEYS[6]) == ARGV[3] and 'mine' or ''}
end
local dead = redis.call('HGET', KEYS[4], 'record/' .. ARGV[1])
if dead then return {'known', dead, ''} end
local done = redis.call('GET', KEYS[3])
if done then return {'done', done} end

local last = 6 + 3 * tonumber(ARGV[6])
local added = 0
for i = 7, last, 3 do added = added + #ARGV[i + 2] end
local kept = added > 0 and tonumber(redis.call('HGET', KEYS[8], 'kept') or 0)
if kept and kept + added > tonumber(ARGV[5]) then return {'full', kept} end
local unknown = {'unknown'}
for i = last + 1, #ARGV, 2 do
  if ARGV[i + 1] == '' and redis.call('HEXISTS', KEYS[5], ARGV[i]) == 0 then unknown[#unknown + 1] = ARGV[i] end
end
if #unknown > 1 then return unknown end

local shown = {}
for i = 7, last, 3 do
  shown[#shown + 1] = ARGV[i]
  if redis.call('HSETNX', KEYS[5], ARGV[i], ARGV[i + 1]) == 0 then -- an earlier message's, which another one shows
    redis.call('HINCRBY', KEYS[5], ARGV[i] .. '/more', 1)
  end
  if ARGV[i + 2] ~= '' then redis.call('HSET', KEYS[7], ARGV[i], ARGV[i + 2]) end
end
for i = last + 1, #ARGV, 2 do
  shown[#shown + 1] = ARGV[i]
  if ARGV[i + 1] == '' or redis.call('HSETNX', KEYS[5], ARGV[i], ARGV[i + 1]) == 0 then
    redis.call('HINCRBY', KEYS[5], ARGV[i] .. '/more', 1)
  end
end
redis.call('HSET', KEYS[2], 'record/' .. ARGV[1], ARGV[2], 'uploads/' .. ARGV[1], table.concat(shown, ' '))
redis.call('RPUSH', KEYS[1], ARGV[1])
if added > 0 then
  redis.call('HINCRBY', KEYS[8], 'kept', added)
  redis.call('PERSIST', KEYS[8])
end
if last > 6 then redis.call('SET', KEYS[6], ARGV[3], 'PX', ARGV[4]) end
return {'accepted'}
