-- SPDX-License-Identifier: Apache-2.0
-- Shared rate limits in Valkey, on the store's clock in microseconds. See tokens.py for the law.
--
-- KEYS[1]  the fleet: its epoch, how many gateways it has, who has been heard of and when
-- KEYS[2]  one limit's state; absent for `hello` and `bye`
--          window: a list: tokens in it, then pairs (when they leave it, how many)
--          bucket: six numbers: FULL_AT INTERVAL, as in Gcra of rules/limits.py, LATEST instant
--          that tokens count for, LONGEST base of tokens, that of the time BEFORE, and SINCE when
-- Every key goes away by itself once forgetting it changes nothing.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local fleet, key = KEYS[1], KEYS[2]

local STALE, OTHER_TIME, LATE = -1, -2, -3
local CLOCK_SLACK = 5000  -- the gateways' estimate of our clock is behind it, never ahead

local function text(number)
  return string.format('%.0f', number)
end

local function fields(name, gateways)
  local names = {}
  for place = 0, gateways - 1 do names[place + 1] = name .. place end
  return redis.call('HMGET', fleet, unpack(names))
end

-- hello PLACE GATEWAYS RUN HEARD EPOCH DOUBTED LAPSE
-- `heard` is the last instant of ours that the gateway has heard: it counts as present until
-- heard + lapse, and admits nothing by itself before. `epoch` is the one it has told its tokens to.
-- A new epoch begins when there is none, when another server (`run`) has taken over, when someone
-- doubts this one, or when a fleet of another size is gone.
local function hello()
  local place, gateways, run = ARGV[2], ARGV[3], ARGV[4]
  local heard, told, doubted, lapse = tonumber(ARGV[5]), ARGV[6], ARGV[7], tonumber(ARGV[8])
  local known = redis.call('HMGET', fleet, 'epoch', 'gateways', 'run')
  local epoch = known[1]
  local renew = not epoch or known[3] ~= run or epoch == doubted
  if epoch and not renew and known[2] ~= gateways then
    for _, at in ipairs(fields('heard', tonumber(known[2]))) do
      if at and at ~= 'left' and math.abs(now - at) <= lapse then return {now, 0, 0} end
    end
    renew = true
  end
  if renew then
    epoch = text(now)
    redis.call('DEL', fleet)
    redis.call('HSET', fleet, 'epoch', epoch, 'gateways', gateways, 'run', run)
  end
  local trusted = redis.call('HGET', fleet, 'trusted')
  if told == epoch then
    redis.call('HSET', fleet, 'told' .. place, 1)
    if heard > 0 then redis.call('HSET', fleet, 'heard' .. place, text(heard)) end
    if not trusted then
      local all = true
      for _, one in ipairs(fields('told', tonumber(gateways))) do all = all and one end
      if all then redis.call('HSET', fleet, 'trusted', 1) end
      trusted = all
    end
  end
  redis.call('PEXPIRE', fleet, 172800000)
  return {now, tonumber(epoch), trusted and 1 or 0}
end

-- What of the amount and burst absent gateways may admit by themselves.
local function reserved(gateways, amount, burst, lapse)
  local calls, beyond = 0, 0
  for place, at in ipairs(fields('heard', gateways)) do
    if at ~= 'left' and (not at or now - at > lapse) then
      calls = calls + math.floor(amount / gateways) + (place <= amount % gateways and 1 or 0)
      local part = math.floor(burst / gateways) + (place <= burst % gateways and 1 or 0)
      beyond = beyond + math.max(0, part - 1)
    end
  end
  return calls, beyond
end

-- How many to grant: all that is needed, if there are so many; of what is wanted beyond, no more
-- than leaves the other gateways theirs.
local function lend(available, need, want, gateways)
  local granted = math.min(available, need)
  local free = math.floor((available - granted) / (2 * gateways))
  return granted + math.max(0, math.min(want, free))
end

local function drop_left(state)
  while state[2] and tonumber(state[2]) <= now do
    redis.call('LPOP', key, 3)
    redis.call('LPUSH', key, text(state[1] - state[3]))
    state = redis.call('LRANGE', key, 0, 2)
  end
  return state
end

local function take_back_window(total, mark, tokens)
  local tail = redis.call('LRANGE', key, -16, -1)
  for place = #tail - 1, 1, -2 do
    if tail[place] == mark and tonumber(tail[place + 1]) >= tokens then
      redis.call('LSET', key, place - #tail, text(tail[place + 1] - tokens))
      redis.call('LSET', key, 0, text(total - tokens))
      return total - tokens
    end
  end
  return total
end

-- Microseconds until a token comes free.
local function until_free(total, capacity, period)
  local missing, place = total - capacity + 1, 1
  while capacity > 0 do
    local pair = redis.call('LRANGE', key, place, place + 1)
    if not pair[1] then break end
    missing = missing - pair[2]
    if missing <= 0 then return pair[1] - now end
    place = place + 2
  end
  return period
end

local function ask_window(ask)
  local state = drop_left(redis.call('LRANGE', key, 0, 2))
  local total = tonumber(state[1] or 0)
  if ask.back > 0 then total = take_back_window(total, ask.mark, ask.back) end
  local capacity = ask.amount - ask.reserved
  local closed = ask.epoch + ask.period + ask.life_max - now
  if not ask.trusted and closed > 0 then return {0, 0, closed, 0, closed} end
  local granted = lend(math.max(0, capacity - total), ask.need, ask.want, ask.gateways)
  local leaves = 0
  if granted > 0 then
    local part = ask.amount > 256 and math.floor(ask.period / 256) or 1
    leaves = now + ask.life + ask.period
    leaves = leaves + (part - leaves % part) % part
    local last = redis.call('LRANGE', key, -2, -1)
    if #state < 3 then
      redis.call('DEL', key)
      redis.call('RPUSH', key, 0, text(leaves), text(granted))
    elseif tonumber(last[1]) >= leaves then
      leaves = tonumber(last[1])
      redis.call('LSET', key, -1, text(last[2] + granted))
    else
      redis.call('RPUSH', key, text(leaves), text(granted))
    end
    total = total + granted
    redis.call('LSET', key, 0, text(total))
    redis.call('PEXPIRE', key, math.ceil((leaves - now) / 1000) + 1000)
  end
  local pause = granted < ask.need and until_free(total, capacity, ask.period) or 0
  local head = redis.call('LINDEX', key, 1)
  return {granted, math.max(0, capacity - total), pause, leaves, head and head - now or 0}
end

-- Tokens that live longer than usual (`ask.base`) may be used so much later, so they count as
-- granted so much later: the bucket is at least as full as at that instant, which costs nothing
-- where it is. That goes as far as three quarters of it; for a life longer still (`base`) it drains
-- slower, as long as a window may hold these tokens.
local function bucket(ask)
  local amount = ask.amount - ask.reserved
  local capacity = ask.burst - ask.reserved_burst
  if amount <= 0 then return nil end
  local stored = redis.call('GET', key)
  local one = {full = 0, latest = 0, longest = 0, before = 0, since = now, capacity = capacity}
  one.holds = ask.period + ask.life_max
  local weighed
  if stored then
    local found = {}
    for number in string.gmatch(stored, '%d+') do found[#found + 1] = tonumber(number) end
    one.full, weighed, one.latest = found[1], found[2], found[3]
    one.longest, one.before, one.since = found[4], found[5], found[6]
    if now - one.since > one.holds then
      one.longest, one.before, one.since = 0, one.longest, now
    end
  end
  local room = math.floor((capacity - 1) * ask.period / amount * 3 / 4)
  one.base = math.max(ask.base, ask.life - room)
  local base = math.max(one.base, one.longest, one.before)
  one.interval = math.ceil((ask.period + base) / amount)
  if weighed and one.interval > weighed then
    -- So many tokens weigh more now.
    one.full = now + math.max(0, one.full - now) * one.interval / weighed
    one.latest = now + ask.period
  end
  if not ask.trusted then one.full = math.max(one.full, ask.epoch + capacity * one.interval) end
  one.full = math.max(one.full, now)
  return one
end

local function keep(one)
  local full = math.ceil(one.full)
  local numbers = {full, one.interval, one.latest, one.longest, one.before, one.since}
  for place, number in ipairs(numbers) do numbers[place] = text(number) end
  local rest = math.max(full - now, one.longest + one.before > 0 and one.holds or 0)
  redis.call('SET', key, table.concat(numbers, ' '), 'PX', math.ceil(rest / 1000) + 1000)
end

local function ask_bucket(ask)
  local one = bucket(ask)
  if not one then return {0, 0, ask.period, 0, ask.period} end
  local interval, counts = one.interval, now + math.max(0, ask.life - one.base)
  if ask.back > 0 then
    -- Without those tokens it might have been empty at a grant since, and drained no further.
    local since = math.max(0, one.latest - ask.mark)
    one.full = math.max(now, one.full - math.max(0, ask.back * interval - since))
  end
  local all = one.capacity * interval
  local free = math.max(0, math.floor((all - (one.full - now)) / interval))
  local granted = lend(free, ask.need, ask.want, ask.gateways)
  if granted > 0 then
    one.full = math.max(one.full, counts) + granted * interval
    one.latest = math.max(one.latest, counts)
    if one.base > ask.base then one.longest = math.max(one.longest, one.base) end
  end
  if granted > 0 or ask.back > 0 then keep(one) end
  free = all - (one.full - now)
  local pause = granted < ask.need and math.max(1, math.ceil(interval - free)) or 0
  local reset = one.full > now and math.ceil((one.full - now - 1) % interval) + 1 or 0
  return {granted, math.max(0, math.floor(free / interval)), pause, counts, reset}
end

-- ask EPOCH GATEWAYS NOW LIFE KIND AMOUNT BURST PERIOD BASE NEED WANT BACK MARK LAPSE LIFE_MAX
-- `now` is at most what our clock said when the gateway asked; a token lives from then.
local function ask()
  local gateways, asked, life = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
  local known = redis.call('HMGET', fleet, 'epoch', 'gateways', 'trusted')
  if known[1] ~= ARGV[2] or known[2] ~= ARGV[3] then return {STALE} end
  if asked > now + CLOCK_SLACK then return {OTHER_TIME} end
  if now - asked > life then return {LATE} end
  local amount, burst, lapse = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[15])
  local calls, beyond = reserved(gateways, amount, burst, lapse)
  local question = {
    epoch = tonumber(known[1]), gateways = gateways, trusted = known[3], life = life,
    amount = amount, burst = burst, period = tonumber(ARGV[9]), base = tonumber(ARGV[10]),
    need = tonumber(ARGV[11]), want = tonumber(ARGV[12]), back = tonumber(ARGV[13]),
    mark = ARGV[14], life_max = tonumber(ARGV[16]), reserved = calls, reserved_burst = beyond,
  }
  if ARGV[6] == 'window' then return ask_window(question) end
  return ask_bucket(question)
end

local function tell_window()
  local pairs_ = {}
  local state = redis.call('LRANGE', key, 0, -1)
  for place = 2, #state, 2 do
    pairs_[#pairs_ + 1] = {tonumber(state[place]), tonumber(state[place + 1])}
  end
  for place = 9, #ARGV, 2 do
    pairs_[#pairs_ + 1] = {now + ARGV[place], tonumber(ARGV[place + 1])}
  end
  if #pairs_ == 0 then return end
  table.sort(pairs_, function(one, other) return one[1] < other[1] end)
  local total = 0
  redis.call('DEL', key)
  for _, pair in ipairs(pairs_) do
    total = total + pair[2]
    redis.call('RPUSH', key, text(pair[1]), text(pair[2]))
  end
  redis.call('LPUSH', key, text(total))
  redis.call('PEXPIRE', key, math.ceil((pairs_[#pairs_][1] - now) / 1000) + 1000)
end

-- tell EPOCH KIND AMOUNT BURST PERIOD BASE TOKENS [LEAVES_IN COUNT]... (a bucket: LIFE_MAX)
-- What this gateway has admitted and the store may not know: of a bucket `tokens`, of a window
-- pairs.
local function tell()
  if redis.call('HGET', fleet, 'epoch') ~= ARGV[2] then return STALE end
  if ARGV[3] == 'window' then
    tell_window()
    return 0
  end
  local one = bucket({
    amount = tonumber(ARGV[4]), burst = tonumber(ARGV[5]), period = tonumber(ARGV[6]),
    base = tonumber(ARGV[7]), life = 0, life_max = tonumber(ARGV[9]),
    reserved = 0, reserved_burst = 0, trusted = true,
  })
  local all = one.capacity * one.interval
  one.full = math.min(one.full + ARGV[8] * one.interval, now + all)
  keep(one)
  return 0
end

local verb = ARGV[1]
if verb == 'ask' then return ask() end
if verb == 'tell' then return tell() end
if verb == 'hello' then return hello() end
redis.call('HSET', fleet, 'heard' .. ARGV[2], 'left')  -- bye PLACE: it admits nothing any more
return 0
