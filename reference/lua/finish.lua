-- Say how an upload ended. The first end stays: a status moves up from pending once, and never again.
-- KEYS  1 uploads  2 bytes  3 state  4 the lease of the message that brought the image in  5 channel of the user
-- ARGV  1 upload id  2 status (JSON)  3 holder  4 '1': only while the lease is the caller's (every failure: who has
--       lost the lease does not know what its new holder achieves)  5 '1': the bytes are of no more use
--       6 '1': it was the caller's last upload of the message, the lease may go
--       7 name of a completed file that Gemini has dropped and this one replaces, or ''
-- Reply {1}, also when sent again; {0, status that stands instead ('' where nobody needs the upload any more)}
local current = redis.call('HGET', KEYS[1], ARGV[1])
if not current then return {0, ''} end
if current ~= ARGV[2] then
  local ok, now = pcall(cjson.decode, current)
  local ended = ok and type(now) == 'table' and now.status ~= 'pending'
  if ended and not (ARGV[7] ~= '' and now.status == 'completed' and now.result.name == ARGV[7]) then
    return {0, current}
  end
  if ARGV[4] == '1' and redis.call('GET', KEYS[4]) ~= ARGV[3] then return {0, current} end
  redis.call('PERSIST', KEYS[1]) -- no change: a full server refuses a script's first write alone
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  if ARGV[5] == '1' then
    local freed = redis.call('HSTRLEN', KEYS[2], ARGV[1])
    redis.call('HDEL', KEYS[2], ARGV[1])
    if freed > 0 then redis.call('HINCRBY', KEYS[3], 'kept', -freed) end
  end
  redis.call('PUBLISH', KEYS[5], ARGV[1])
end
if ARGV[6] == '1' and redis.call('GET', KEYS[4]) == ARGV[3] then redis.call('DEL', KEYS[4]) end
return {1}
