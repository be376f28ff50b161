-- Say how an upload ended. The first end stays: a status moves up from pending once, and never again.
-- KEYS  1 uploads  2 bytes  3 state  4 channel of the user
-- ARGV  1 upload id  2 status (JSON)  3 '1': the bytes are of no more use
--       4 name of a completed file that this one replaces, or ''
-- Reply {1}, also when sent again; {0, status that stands instead ('' where nobody needs the upload any more)}
local current = redis.call('HGET', KEYS[1], ARGV[1])
if not current then return {0, ''} end
if current == ARGV[2] then return {1} end
local ended = string.sub(current, 1, 19) ~= '{"status":"pending"' and string.sub(current, -1) == '}'
if ended then
  local ok, now = pcall(cjson.decode, ARGV[4] ~= '' and current or '')
  if not (ok and type(now) == 'table' and now.status == 'completed' and now.result.name == ARGV[4]) then
    return {0, current}
  end
end

redis.call('PERSIST', KEYS[1]) -- no change: a full server refuses a script's first write alone
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] == '1' then
  local freed = redis.call('HSTRLEN', KEYS[2], ARGV[1])
  if freed > 0 then
    redis.call('HDEL', KEYS[2], ARGV[1])
    redis.call('HINCRBY', KEYS[3], 'kept', -freed)
  end
end
redis.call('PUBLISH', KEYS[4], ARGV[1])
return {1}
