#!lua flags=allow-oom
-- Take a delivered batch out. Called by absorb once the memory agent has recorded it.
-- KEYS  1 queue  2 messages  3 uploads  4 bytes  5 state  6 the claim's lease  7... the messages' done records
-- ARGV  1 fence  2 for how long to remember, in ms, then for each message: its id, what its done record says
-- Reply 1, also when sent again; 0 where the batch is another claimer's by now: then nothing was written
local state = redis.call('HMGET', KEYS[5], 'acked', 'fence', 'alone', 'kept')
if state[1] == ARGV[1] then return 1 end
if state[2] ~= ARGV[1] then return 0 end

local size, freed = #KEYS - 6, 0
redis.call('LTRIM', KEYS[1], size, -1)
for number = 7, #KEYS do
  local id = ARGV[2 * number - 11]
  for upload in string.gmatch(redis.call('HGET', KEYS[2], 'uploads/' .. id) or '', '%S+') do
    -- The last message that shows an image takes its status along; its done record still tells it.
    if tonumber(redis.call('HGET', KEYS[3], upload .. '/more') or 0) > 0 then
      redis.call('HINCRBY', KEYS[3], upload .. '/more', -1)
    else
      freed = freed + redis.call('HSTRLEN', KEYS[4], upload)
      redis.call('HDEL', KEYS[4], upload)
      redis.call('HDEL', KEYS[3], upload, upload .. '/more', upload .. '/attempts', upload .. '/taken')
    end
  end
  redis.call('HDEL', KEYS[2], 'record/' .. id, 'uploads/' .. id)
  redis.call('SET', KEYS[number], ARGV[2 * number - 10], 'PX', ARGV[2])
end

local alone, kept = math.max(0, tonumber(state[3] or 0) - size), math.max(0, tonumber(state[4] or 0) - freed)
redis.call('HSET', KEYS[5], 'acked', ARGV[1], 'alone', alone, 'kept', kept, 'size', 0, 'refusals', 0)
if kept == 0 then redis.call('PEXPIRE', KEYS[5], ARGV[2]) end -- until the next claim
redis.call('DEL', KEYS[6]) -- it is the caller's, or gone: who takes it raises the fence with it
return 1
