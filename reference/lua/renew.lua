-- Keep a lease, and tell how far an upload has come. Called by the heartbeat and by an upload under way.
-- KEYS  1 the lease (of a message's uploads, or of a claim); to tell progress also  2 uploads
-- ARGV  1 holder  2 lease in ms; to tell progress also  3 upload id  4 its pending status (JSON)  5 progress, 0 to 100
-- Reply 1, or 0 where the lease has lapsed or is another's: then nothing was written
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if #KEYS > 1 then
  local ok, now = pcall(cjson.decode, redis.call('HGET', KEYS[2], ARGV[3]) or '')
  local moves = ok and type(now) == 'table' and now.status == 'pending' and not now.again
  if moves and (now.progress or 0) < tonumber(ARGV[5]) then
    redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
  end
end
return 1
