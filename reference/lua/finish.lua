#!lua flags=allow-oom
-- Say how an upload ended. The first end stays: a status moves up from pending once, and never again.
-- KEYS  1 uploads  2 channel of the user; where the bytes are of no more use also  3 bytes  4 state
-- ARGV  1 upload id  2 status (JSON)  3 name of a completed file that this one replaces, or ''
-- Reply {1}, also when sent again; {0, status that stands instead ('' where nobody needs the upload any more)}
local current = redis.call('HGET', KEYS[1], ARGV[1])
if not current then return {0, ''} end
if current == ARGV[2] then return {1} end
local ended = string.sub(current, 1, 19) ~= '{"status":"pending"' and string.sub(current, -1) == '}'
if ended then
  local ok, now = pcall(cjson.decode, ARGV[3] ~= '' and current or '')
  if not (ok and type(now) == 'table' and now.status == 'completed' and now.result.name == ARGV[3]) then
    return {0, current}
  end
end

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local freed = #KEYS > 2 and redis.call('HSTRLEN', KEYS[3], ARGV[1]) or 0
if freed > 0 then
  redis.call('HDEL', KEYS[3], ARGV[1])
  redis.call('HINCRBY', KEYS[4], 'kept', -freed)
end
redis.call('PUBLISH', KEYS[2], ARGV[1])
return {1}
