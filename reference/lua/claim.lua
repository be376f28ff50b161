#!lua flags=allow-oom
-- Claim the ready messages at the head of a user's queue as one batch. Called by absorb.
-- What was claimed stays frozen until it is acknowledged: the next claimer gets the same batch, a higher fence.
-- KEYS  1 queue  2 messages  3 uploads  4 state  5 the claim's lease  6 dead
-- ARGV  1 claimer, new for each claim (sent again, a claim gets the same reply)  2 lease in ms  3 lowest fence
--       4 fewest messages that begin a batch  5 most messages of one
-- Reply {'batch', batch id, fence, 1 where more may come, {message id, record, upload id, status, ...}, ...}
--       {'none', upload id, id of the message that brought it in, ...} of the uploads that the queue waits for;
--       {'none'} also while another has the claim
local holder = redis.call('GET', KEYS[5])
if holder and holder ~= ARGV[1] then return {'none'} end

-- What was cut is recognised without decoding all of it. What is damaged otherwise, `build` finds.
local function whole(text)
  return text and string.sub(text, 1, 1) == '{' and string.sub(text, -1) == '}'
end

-- A damaged record is set aside and reported; in its place stands that it is missing. Its images are not.
local function set_aside(id, record)
  redis.call('HSETNX', KEYS[6], 'record/' .. id, record or '')
  redis.call('HSET', KEYS[6], 'reason/' .. id, 'its record was damaged')
  local missing = '{"missing":"its record was damaged"}'
  redis.call('HSET', KEYS[2], 'record/' .. id, missing)
  return missing
end

-- An upload whose status cannot be read is done `again`: until it has ended, readers are told that nobody knows it.
local function begin_again(upload, record)
  for _, image in ipairs(cjson.decode(record).images or {}) do
    if image.upload_uuid == upload then
      local known = '"filename":' .. cjson.encode(image.filename) .. ',"message_id":' .. cjson.encode(image.message_id)
      local status = '{"status":"pending","again":true,"result":null,"progress":0,' .. known .. '}'
      redis.call('HSET', KEYS[3], upload, status)
      return status
    end
  end
  return ''
end

-- An id in the queue that no record has was damaged: it stands for the message that the queue does not name.
local function mended(place, id)
  local queued = {}
  for _, one in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do queued[one] = true end
  for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
    local one = string.match(field, '^record/(.*)$')
    if one and not queued[one] then
      redis.call('LSET', KEYS[1], place, one)
      return one
    end
  end
  return id
end

local state = redis.call('HMGET', KEYS[4], 'size', 'alone', 'fence', 'batch')
local size, alone, stored, batch = tonumber(state[1] or 0), tonumber(state[2] or 0), state[3], state[4]
local fewest, most = tonumber(ARGV[4]), tonumber(ARGV[5])
if size > 0 then fewest, most = size, size elseif alone > 0 then fewest, most = 1, 1 end
local items, pending = {}, {'none'}
local queue = redis.call('LRANGE', KEYS[1], 0, most)
if #queue == 0 then return pending end
redis.call('PERSIST', KEYS[4]) -- ack.lua leaves it with a time to live
for place, id in ipairs(queue) do
  if place > most then break end
  local held = redis.call('HMGET', KEYS[2], 'record/' .. id, 'uploads/' .. id)
  if not held[1] then
    id = mended(place - 1, id)
    held = redis.call('HMGET', KEYS[2], 'record/' .. id, 'uploads/' .. id)
  end
  local item = {id, whole(held[1]) and held[1] or set_aside(id, held[1])}
  for upload in string.gmatch(held[2] or '', '%S+') do
    local status = redis.call('HGET', KEYS[3], upload)
    if not whole(status) then status = begin_again(upload, item[2]) end
    if string.sub(status, 1, 19) == '{"status":"pending"' then
      pending[#pending + 1] = upload
      pending[#pending + 1] = cjson.decode(status).message_id
    end
    item[#item + 1] = upload
    item[#item + 1] = status
  end
  if #pending > 1 then break end
  items[#items + 1] = item
end

if #items == 0 or #items < fewest then return pending end
local fence = holder and stored or string.format('%.0f', math.max(tonumber(stored or 0) + 1, tonumber(ARGV[3])))
redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[2])
-- The fence tells batches apart; the message id too, should the fence be forgotten and clocks have gone back.
if size == 0 then
  batch = fence .. ':' .. items[1][1]
  redis.call('HSET', KEYS[4], 'fence', fence, 'batch', batch, 'size', #items)
else
  redis.call('HSET', KEYS[4], 'fence', fence)
end
local reply = {'batch', batch, fence, #queue > #items and 1 or 0}
for _, item in ipairs(items) do reply[#reply + 1] = item end
return reply
