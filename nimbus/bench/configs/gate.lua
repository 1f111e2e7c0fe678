-- SPDX-License-Identifier: Apache-2.0
-- A gateway's policy as one writes it in nginx: the key's keyed hash, its record from memory,
-- then one script in Redis for the rate (GCRA) and the quota, which all workers share. Redis is
-- spoken to directly: the client library would only cost more.
local gate = {}
local records = {}
local PEPPER = "pepper of the bench"
-- KEYS: rate, quota. ARGV: microseconds per call, burst in microseconds, quota.
-- Answers what is left of the burst in calls, -1: too fast, -2: no quota left.
local SCRIPT = [[
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local due = tonumber(redis.call("GET", KEYS[1]) or now)
if due < now then due = now end
due = due + tonumber(ARGV[1])
if due - now > tonumber(ARGV[2]) then return -1 end
if redis.call("INCR", KEYS[2]) > tonumber(ARGV[3]) then
  redis.call("DECR", KEYS[2])
  return -2
end
redis.call("SET", KEYS[1], string.format("%d", due), "PX", 2000)
return math.floor((tonumber(ARGV[2]) - due + now) / tonumber(ARGV[1]))
]]
local function command(...)
  local words = { ... }
  local parts = { "*" .. #words .. "\r\n" }
  for _, word in ipairs(words) do
    parts[#parts + 1] = "$" .. #word .. "\r\n" .. word .. "\r\n"
  end
  return table.concat(parts)
end

function gate.load(keys, folder, per_customer)
  local digest = io.open(folder .. "/script.sha1"):read("*l")
  local count = 0
  for key in io.lines(keys) do
    local subscription = "s" .. math.floor(count / per_customer)
    records[ngx.hmac_sha1(PEPPER, key)] = {
      client = "c" .. count,
      subscription = subscription,
      status = "Active",
      scopes = { ["assets.read"] = true },
      debit = command("EVALSHA", digest, "2", "rate:" .. subscription, "quota:" .. subscription,
        "1", "1000000", "1000000000000000"),
    }
    count = count + 1
  end
end

local function ask(port, request)
  local socket = ngx.socket.tcp()
  socket:settimeout(1000)
  if not socket:connect("127.0.0.1", port) then return nil end
  socket:send(request)
  local line = socket:receive("*l")
  socket:setkeepalive(60000, 512)
  return line and line:sub(1, 1) == ":" and tonumber(line:sub(2))
end

function gate.admit(port)
  local given = ngx.var.http_authorization
  if not given or given:sub(1, 7) ~= "Bearer " then return ngx.exit(401) end
  local record = records[ngx.hmac_sha1(PEPPER, given:sub(8))]
  if not record then return ngx.exit(401) end
  if record.status ~= "Active" or not record.scopes["assets.read"] then return ngx.exit(403) end
  local left = ask(port, record.debit)
  if not left then return ngx.exit(503) end
  if left < 0 then return ngx.exit(left == -1 and 429 or 403) end
  ngx.var.gateway_client = record.client
  ngx.var.gateway_subscription = record.subscription
  ngx.header["RateLimit"] = '"plan";r=' .. left .. ";t=1"
end

gate.script = SCRIPT
return gate
