-- Claim the ready messages at the head of a user's queue as one batch. Called by absorb.
-- What was claimed stays frozen until it is acknowledged: the next claimer gets the same batch, a higher fence.
-- KEYS  1 queue  2 messages  3 uploads  4 state  5 the claim's lease  6 dead  7 reasons
-- ARGV  1 claimer, new for each claim (sent again, a claim gets the same reply)  2 lease in ms  3 lowest fence
--       4 fewest messages that begin a batch  5 most messages of one  6 status for an upload whose own is damaged
-- Reply {'busy'} while another has the claim, else {'none' or 'batch', pending, batch id, fence,
--       1 where more may be ready, {{message id, record, {upload id, status, ...}}, ...}}; `pending` are the uploads
--       that the queue waits for: upload id, id of the message that brought it in, ...
local holder = redis.call('GET', KEYS[5])
if holder and holder ~= ARGV[1] then return {'busy'} end

-- What was cut is recognised without decoding all of it. What is damaged otherwise, `build` finds.
local function whole(text)
  return text and string.sub(text, 1, 1) == '{' and string.sub(text, -1) == '}'
end

-- A damaged record is set aside and reported; in its place stands that it is missing. Its images are not.
local function set_aside(id, record)
  redis.call('HSETNX', KEYS[6], id, record or '')
  redis.call('HSET', KEYS[7], id, 'its record was damaged')
  local missing = '{"missing":"its record was damaged"}'
  redis.call('HSET', KEYS[2], id, missing)
  return missing
end

-- An id in the queue that no record has was damaged: it stands for the message that the queue does not name.
local function mended(place, id)
  local queued = {}
  for _, one in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do queued[one] = true end
  for _, one in ipairs(redis.call('HKEYS', KEYS[2])) do
    if not queued[one] then
      redis.call('LSET', KEYS[1], place, one)
      return one
    end
  end
  return id
end

local state = redis.call('HMGET', KEYS[4], 'size', 'alone', 'fence', 'batch')
local size, alone, stored, batch = tonumber(state[1] or 0), tonumber(state[2] or 0), state[3], state[4]
local most = size > 0 and size or (alone > 0 and 1 or tonumber(ARGV[5]))
local items, pending = {}, {}
local queue = redis.call('LRANGE', KEYS[1], 0, most)
if #queue == 0 then return {'none', {}} end
redis.call('PERSIST', KEYS[4]) -- also the first write, which alone a full server refuses: absorbing is what empties it
for place, id in ipairs(queue) do
  if place > most then break end
  local record = redis.call('HGET', KEYS[2], id)
  if not record then
    id = mended(place - 1, id)
    record = redis.call('HGET', KEYS[2], id)
  end
  if not whole(record) then record = set_aside(id, record) end
  local statuses = {}
  for upload in string.gmatch(redis.call('HGET', KEYS[3], '/of/' .. id) or '', '%S+') do
    local status = redis.call('HGET', KEYS[3], upload)
    if not whole(status) then
      status = ARGV[6]
      redis.call('HSET', KEYS[3], upload, status)
    elseif string.sub(status, 1, 19) == '{"status":"pending"' then
      pending[#pending + 1] = upload
      pending[#pending + 1] = cjson.decode(status).message_id
    end
    statuses[#statuses + 1] = upload
    statuses[#statuses + 1] = status
  end
  if #pending > 0 then break end
  items[#items + 1] = {id, record, statuses}
end

if #items == 0 or (size == 0 and alone == 0 and #items < tonumber(ARGV[4])) then
  return {'none', pending}
end
local fence = holder and stored or string.format('%.0f', math.max(tonumber(stored or 0) + 1, tonumber(ARGV[3])))
redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[2])
-- The fence tells batches apart; the message id too, should the fence be forgotten and clocks have gone back.
if size == 0 then
  batch = fence .. ':' .. items[1][1]
  redis.call('HSET', KEYS[4], 'fence', fence, 'batch', batch, 'size', #items)
else
  redis.call('HSET', KEYS[4], 'fence', fence)
end
local more = #pending == 0 and #queue > #items and 1 or 0
return {'batch', pending, batch, fence, more, items}
