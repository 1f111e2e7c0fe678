# SPDX-License-Identifier: Apache-2.0
"""The sample upstream over real sockets: whose rows a call sees, and what it reports as usage."""

import asyncio
import io
import os
import signal
import sys
from uuid import uuid4

import httpx2
import pypdf
import pytest

from examples.wind_api import serve

pytestmark = pytest.mark.anyio

FARM = {"name": "Noordzee", "country": "NL", "latitude": 52.6, "longitude": 4.4}
AT = "2026-05-0{}T12:00:00Z"


def _headers():
    return {"X-Nimbus-Organization": str(uuid4())}


@pytest.fixture(scope="module")
async def url(anyio_backend):
    async with serve() as base:
        yield base


@pytest.fixture
async def mine(url):
    async with httpx2.AsyncClient(base_url=url, headers=_headers(), trust_env=False) as client:
        yield client


@pytest.fixture
async def theirs(url):
    async with httpx2.AsyncClient(base_url=url, headers=_headers(), trust_env=False) as client:
        yield client


async def _farm(client):
    return (await client.post("/farms", json=FARM)).json()["id"]


async def _turbine(client, farm_id, name="T1"):
    given = {"farm_id": farm_id, "name": name, "model": "V164", "rated_power_kw": 8000}
    return await client.post("/turbines", json=given)


@pytest.mark.parametrize("value", [None, "", "acme", "0190a0f0-0000-7000-8000-00000000000g"])
async def test_a_call_that_did_not_come_through_the_gateway_is_refused(url, value):
    headers = {} if value is None else {"X-Nimbus-Organization": value}
    async with httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
        for method, path in [("GET", "/farms"), ("GET", "/alerts"), ("POST", "/reports")]:
            answer = await client.request(method, path)
            assert answer.status_code == 401
            assert answer.headers["content-type"] == "application/problem+json"


async def test_another_organizations_rows_are_not_there(mine, theirs):
    farm = await _farm(mine)
    turbine = (await _turbine(mine, farm)).json()["id"]
    days = {"farm_id": farm, "first_day": "2026-05-01", "last_day": "2026-05-31"}
    report = (await mine.post("/reports", json=days)).headers["location"]

    for path in (
        f"/farms/{farm}",
        f"/turbines/{turbine}",
        f"/turbines/{turbine}/measurements",
        report,
    ):
        assert (await mine.get(path)).status_code == 200
        assert (await theirs.get(path)).status_code == 404
    assert (await theirs.delete(f"/turbines/{turbine}")).status_code == 404
    assert (await _turbine(theirs, farm)).status_code == 404
    assert (await theirs.post("/reports", json=days)).status_code == 404
    for path in ("/farms", "/turbines", "/alerts", "/reports"):
        assert (await theirs.get(path)).json() == {"data": []}


async def test_each_change_of_assets_reports_how_many_there_are_now(mine):
    farm = await _farm(mine)
    made = [await _turbine(mine, farm, f"T{n}") for n in range(3)]
    assert [m.headers["x-nimbus-usage"] for m in made] == ["assets=1", "assets=2", "assets=3"]
    gone = await mine.delete(f"/turbines/{made[0].json()['id']}")
    assert (gone.status_code, gone.headers["x-nimbus-usage"]) == (204, "assets=2")
    again = await mine.delete(f"/turbines/{made[0].json()['id']}")
    assert again.status_code == 404
    assert "x-nimbus-usage" not in again.headers


async def test_a_report_is_a_pdf_with_the_farms_numbers_and_counts_as_one(mine):
    farm = await _farm(mine)
    turbine = (await _turbine(mine, farm, '#read("/etc/passwd") *T1*')).json()["id"]
    rows = [{"at": AT.format(d), "power_kw": d * 1000, "wind_speed_ms": 9.5} for d in (1, 2, 3)]
    await mine.post(f"/turbines/{turbine}/measurements", json={"measurements": rows})

    days = {"farm_id": farm, "first_day": "2026-05-01", "last_day": "2026-05-02"}
    answer = await mine.post("/reports", json=days)

    assert (answer.status_code, answer.headers["x-nimbus-usage"]) == (201, "reports=1")
    assert answer.headers["content-type"] == "application/pdf"
    text = pypdf.PdfReader(io.BytesIO(answer.content)).pages[0].extract_text()
    assert "Noordzee" in text
    assert '#read("/etc/passwd") *T1*' in text
    assert "1500.0 kW" in text  # the mean of the first two days; the third is outside
    again = await mine.get(answer.headers["location"])
    assert again.content == answer.content
    assert "x-nimbus-usage" not in again.headers


async def test_a_report_without_days_is_over_everything(mine):
    farm = await _farm(mine)
    turbine = await mine.post("/turbines", json={"farm_id": farm, "name": "T", "rated_power_kw": 9})
    rows = [{"at": AT.format(d), "power_kw": d, "wind_speed_ms": 9.5} for d in (1, 2, 3)]
    path = f"/turbines/{turbine.json()['id']}/measurements"
    await mine.post(path, json={"measurements": rows})
    answer = await mine.post("/reports", json={"farm_id": farm, "title": "Since the start"})
    text = pypdf.PdfReader(io.BytesIO(answer.content)).pages[0].extract_text()
    assert "Since the start, all measurements" in text
    assert "2.0 kW" in text
    for days in (
        {"first_day": "2026-05-01"},
        {"first_day": "2026-05-02", "last_day": "2026-05-01"},
    ):
        assert (await mine.post("/reports", json={"farm_id": farm, **days})).status_code == 422


async def test_measurements_come_back_newest_first_within_the_asked_time(mine):
    turbine = (await _turbine(mine, await _farm(mine))).json()["id"]
    path = f"/turbines/{turbine}/measurements"
    rows = [{"at": AT.format(d), "power_kw": 100, "wind_speed_ms": 5} for d in (3, 1, 4, 2)]
    assert (await mine.post(path, json={"measurements": rows})).json()["stored"] == 4

    def days(answer):
        return [row["at"][8:10] for row in answer.json()["data"]]

    assert days(await mine.get(path)) == ["04", "03", "02", "01"]
    assert days(await mine.get(path, params={"limit": 1})) == ["04"]
    asked = {"since": AT.format(2), "until": AT.format(4)}
    assert days(await mine.get(path, params=asked)) == ["03", "02"]


async def test_a_storm_raises_an_alert_that_can_be_acknowledged(mine):
    turbine = (await _turbine(mine, await _farm(mine))).json()["id"]
    row = {"at": AT.format(1), "power_kw": 0, "wind_speed_ms": 31.5}
    stored = await mine.post(f"/turbines/{turbine}/measurements", json={"measurements": [row]})
    [alert] = stored.json()["alerts"]
    assert alert["kind"] == "storm"
    done = await mine.post(f"/alerts/{alert['id']}/acknowledge")
    assert done.json()["acknowledged"] is True
    assert (await mine.get("/alerts", params={"acknowledged": False})).json() == {"data": []}


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 422),
        (b"[]", "application/json", 422),
        (b'{"name":"x"}', "application/json", 422),
        (b'{"name":"x","country":"NL","latitude":"1","longitude":2}', "application/json", 422),
        (b'{"name":"x","country":"NL","latitude":NaN,"longitude":2}', "application/json", 422),
        (b'{"name":"x","country":"nl","latitude":1,"longitude":2}', "application/json", 422),
        (b'{"name":"","country":"NL","latitude":1,"longitude":2}', "application/json", 422),
        (b'{"name":"x","country":"NL","latitude":1,"longitude":2,"id":1}', "application/json", 422),
        (b'{"name":"a\\u0000","country":"NL","latitude":1,"longitude":2}', "application/json", 422),
        (b'{"name":"x","country":"NL","latitude":1,"longitude":2}', "text/plain", 422),
        (b"\xff\xfe", "application/json", 400),
        (b" " * (256 * 1024 + 1), "application/json", 413),
    ],
)
async def test_bad_input_gets_a_clear_problem_and_stores_nothing(
    mine, content, content_type, status
):
    answer = await mine.post("/farms", content=content, headers={"content-type": content_type})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert (await mine.get("/farms")).json() == {"data": []}


async def test_an_endless_body_is_cut_off(mine):
    async def endless():
        while True:
            yield b" " * 65_536

    try:
        answer = await mine.post("/farms", content=endless())
    except httpx2.TransportError:
        return  # closed while we were still sending: as good an end as the 413
    assert answer.status_code == 413


async def test_a_connection_serves_one_call_after_another(url):
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    ask = f"GET /farms HTTP/1.1\r\nHost: x\r\nX-Nimbus-Organization: {uuid4()}\r\n\r\n".encode()
    for _ in range(3):
        writer.write(ask)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(11) == b'{"data":[]}'
    writer.close()
    await writer.wait_closed()


async def test_the_description_names_every_call_and_its_header(mine):
    document = (await mine.get("/openapi.json")).json()
    calls = {f"{m} {path}" for path, methods in document["paths"].items() for m in methods}
    assert {"post /farms", "get /turbines/{turbine_id}/measurements", "post /reports"} <= calls
    schemes = document["components"]["securitySchemes"].values()
    assert [scheme["name"] for scheme in schemes] == ["X-Nimbus-Organization"]


async def test_a_taken_port_is_refused(url):
    port = int(url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        async with serve(port=port):
            pass


async def test_the_command_prints_its_port_and_stops_when_told():
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "examples.wind_api", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    url = line.removeprefix("Wind API is ready: ").strip()
    async with httpx2.AsyncClient(headers=_headers(), trust_env=False) as client:
        assert (await client.get(f"{url}/farms")).status_code == 200
    os.kill(process.pid, signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, errors) == (0, b"")
