-- SPDX-License-Identifier: Apache-2.0
-- wrk: GET with five header fields, the keys of a file in rotation; prints one line of JSON.
-- Arguments: the file of keys, the path.
local requests, count, at = {}, 0, 0

function init(args)
  for key in io.lines(args[1]) do
    count = count + 1
    requests[count] = wrk.format("GET", args[2], {
      ["Host"] = wrk.host .. ":" .. wrk.port,
      ["Authorization"] = "Bearer " .. key,
      ["User-Agent"] = "bench/1",
      ["Accept"] = "application/json",
      ["Accept-Language"] = "en",
    })
  end
end

function request()
  at = at % count + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50_us": %d, "p99_us": %d, "bytes": %d,' ..
    ' "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    summary.bytes, errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
