# SPDX-License-Identifier: Apache-2.0
"""Running cases: a rig with the gateway between caller and recorder, and one case on it.

A run is over when nothing moves any more: all bytes are taken, the recorder has nothing to say,
and the gateway's loop has turned several times without news. Only when no outcome matches by
then is there a wait for what timers may still bring.
"""

import asyncio
import contextlib
import fcntl
import random
import re
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nimbus.rules.metering import UsageEvent
from tools.corpus.accept import Seen, best_match
from tools.corpus.caller import Caller, Cut, an_address, connect
from tools.corpus.child import HEAVY, Fare, Gateway, Kind
from tools.corpus.form import Case, Corpus
from tools.corpus.gateway import ALLOWED, FORBIDDEN
from tools.corpus.recorder import Received, Recorder
from tools.corpus.wire import Message, read_answers

PATIENCE: Final = 8  # seconds that an outcome may take to come once all is said
SCALED_PATIENCE: Final = 20  # the same where timers are divided and the case is about them
ENDLESS: Final = 2  # seconds to look at what never ends
OWN_TASKS: Final = 1  # of a gateway at rest: the one that tends it
QUIET_TURNS: Final = 4  # turns of the gateway's loop without news
# Which store fails in a case that needs `faults` is said only in its words.
_DISK = re.compile(r"(?i)\b(disk|spool|journal)\b")
_WINDOWS = re.compile(r"(?i)\b(redis|valkey)\b")
_NOT_SENT: Final = 0x894B  # SIOCOUTNSD of Linux
_KILL = re.compile(rb"[?&]kill=([a-z_]+)")


class UnsupportedError(Exception):
    """The case needs something that its form does not say; the message names the need."""


@dataclass
class Rig:
    """A corpus, its recorder, and the gateway processes started so far."""

    corpus: Corpus
    folder: Path
    recorder: Recorder
    gateways: dict[Kind, Gateway] = field(default_factory=dict)
    canaries: int = 0
    last: Kind | None = None

    async def gateway(self, kind: Kind) -> Gateway:
        """The process of this kind, started when it does not run. The others' connections to the
        recorder are closed: what is open there afterwards is this one's.
        """
        if kind != self.last:
            self.last = kind
            await self.recorder.drop_connections()
        known = self.gateways.get(kind)
        if known is None:
            folder = self.folder / f"gateway-{len(self.gateways)}"
            known = Gateway(self.corpus, folder, self.recorder.port, kind)
            self.gateways[kind] = known
        if not known.alive:
            await known.start()
            await canary(self, known)  # what the first call makes is there from now on
        return known

    async def renew(self, kind: Kind) -> Gateway:
        """A new process of this kind, after a run that was not finished."""
        gateway = self.gateways[kind]
        await gateway.kill()
        self.recorder.stop_listening()
        await self.recorder.listen(_upstream_hosts())
        return await self.gateway(kind)


@contextlib.asynccontextmanager
async def open_rig(corpus: Corpus, folder: Path) -> AsyncIterator[Rig]:
    """The recorder listens, no gateway runs yet; everything ends at the end."""
    recorder = Recorder()
    await recorder.listen(_upstream_hosts())
    rig = Rig(corpus, folder, recorder)
    try:
        yield rig
    finally:
        for gateway in rig.gateways.values():
            await gateway.stop()
        await recorder.close()


def _upstream_hosts() -> list[str]:
    return [str(ALLOWED[0].network_address), FORBIDDEN]


class Run:
    """One run of a case, perhaps split, perhaps behind a valid request, perhaps repeated."""

    def __init__(self, rig: Rig, case: Case, gateway: Gateway) -> None:
        self.rig = rig
        self.case = case
        self.gateway = gateway
        self.callers: list[Caller] = []
        self.source = an_address()
        self.started = 0.0
        self.spoken = 0.0
        self.peak = 0

    async def __call__(self, cut: Cut, *, warm: bool = False, twice: bool = False) -> Seen:
        """Run it. `warm`: behind a valid request on the same connection; `twice`: once more on
        the connection, if that is still there and nothing is under way; the last run counts.
        """
        case, recorder = self.case, self.rig.recorder
        self.callers = list(
            await asyncio.gather(
                *(connect(self.gateway.port, self.source) for _ in range(case.connections))
            )
        )
        begun = await self.gateway.fare()
        skip = 0
        if warm:
            skip = await self._warm_up()
        await self._prepare()
        recorder.scale = self.gateway.kind.scale
        recorder.begin(case.scripted)
        with self._breaking():
            seen = await self._once(cut, skip, begun)
            if twice and self._again_is_possible(seen):
                await self._take_events()
                skip = len(self.callers[0].data)
                recorder.begin(case.scripted)
                await self.gateway.configure(case.config.get("quota_remaining"), self._heavy)
                seen = await self._once(cut, skip, begun)
        await self._finish(seen)
        seen.lookups = (await self.gateway.fare()).lookups - begun.lookups
        return seen

    @property
    def _heavy(self) -> int:
        return self.case.config.get("route_weight", HEAVY)

    async def _prepare(self) -> None:
        case, recorder, gateway = self.case, self.rig.recorder, self.gateway
        await gateway.configure(case.config.get("quota_remaining"), self._heavy)
        if case.upstream is not None:
            await recorder.drop_connections()
            await self._turns(3)
        if case.upstream == "refused":
            recorder.stop_listening()
        elif case.upstream == "dns_rebind":
            await gateway.rebind_upstream()
        for step in case.scripted:
            if step.name == "on_accept_send":
                await canary(self.rig, self.gateway)
                recorder.say_unasked(step.value)
                await self._turns(3)
        if "faults" in case.needs:
            await self._break_store()
        if "crash" in case.needs and _kill_point(case) == "after_append":
            await gateway.ask("kill_after_append")
        gateway.forget_events()

    async def _break_store(self) -> None:
        """The shared rate windows need nothing: this gateway never reaches a Valkey."""
        if _DISK.search(self.case.about):
            await self.gateway.ask("disk_full")
        elif not _WINDOWS.search(self.case.about):
            raise UnsupportedError("faults")

    async def _finish(self, seen: Seen) -> None:
        """Hang up, read the journal, and put back what the case has changed."""
        for caller in self.callers:
            caller.hang_up()
        seen.died = not self.gateway.alive
        crashed = await self._recover()
        seen.events = await self._take_events(reserved_allowed=crashed)
        if crashed:  # the drain may read a dead gateway's journal twice
            self.gateway.replay_events()
            again = await self._take_events(reserved_allowed=True)
            known = {event.event_id for event in seen.events}
            seen.events += [event for event in again if event.event_id not in known]
        if self.case.upstream == "refused":
            await self.rig.recorder.listen(_upstream_hosts())
        elif self.case.upstream == "dns_rebind":
            await self.gateway.move_upstream(None)
        await self.gateway.configure(None, HEAVY)
        seen.requests = self.rig.recorder.seen
        seen.streams = self.rig.recorder.streams
        self.rig.recorder.begin(())

    async def _take_events(self, *, reserved_allowed: bool = False) -> list[UsageEvent]:
        """The calls' usage events, once every call is written down."""
        found: list[UsageEvent] = []
        deadline = time.monotonic() + 30
        while True:
            served, _, reserved = self.gateway.events()
            known = {event.event_id for event in found}
            found += [event for event in served if event.event_id not in known]
            if not reserved or reserved_allowed or time.monotonic() > deadline:
                return found
            await self._turns(1)

    async def _recover(self) -> bool:
        """After a crash a new process on the same folder; after a fault of a store as well."""
        crashed = not self.gateway.alive
        if "faults" in self.case.needs:
            await self._take_events()
            self.gateway.replay_events()
            await self.gateway.stop()
        if not self.gateway.alive:
            await self.gateway.start()
        return crashed

    async def _warm_up(self) -> int:
        """A valid request on each connection; how many bytes its answer had on the first."""
        self.rig.recorder.begin(())
        key = self.rig.corpus.keys["{{KEY}}"]
        for caller in self.callers:
            await caller.send(
                b"GET /echo?warm=1 HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\n\r\n"
                % (self.rig.corpus.host.encode(), key)
            )
        await self._settle(lambda: all(b'"body_length"' in c.data for c in self.callers))
        return len(self.callers[0].data)

    async def _once(self, cut: Cut, skip: int, begun: Fare) -> Seen:
        case = self.case
        self.started = asyncio.get_running_loop().time()
        self.peak = 0
        plays = [
            asyncio.create_task(
                caller.play(
                    case.client, cut=cut, scale=self.gateway.kind.scale, seen=self._one_turn
                )
            )
            for caller in self.callers
        ]
        watch = asyncio.create_task(self._watch_memory(begun))
        limit = 60 if case.upstream is None else 30
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*plays), limit)
        self.spoken = asyncio.get_running_loop().time()
        seen = Seen()

        def matches() -> bool:
            nonlocal seen
            seen = self._look(skip)
            return best_match(seen, case)[0] is not None

        await self._settle(matches)
        watch.cancel()
        seen = self._look(skip)
        seen.memory_growth = self.peak
        return seen

    async def _watch_memory(self, begun: Fare) -> None:
        if not any("rss_growth_mb_max" in outcome for outcome in self.case.accept):
            return
        while self.gateway.alive:
            with contextlib.suppress(FileNotFoundError, AssertionError):
                self.peak = max(self.peak, self.gateway.memory - begun.memory)
            await asyncio.sleep(0.01)

    async def _settle(self, matches: Callable[[], bool]) -> None:
        """Wait until nothing moves, and then for an outcome; for what never ends, not long."""
        began = time.monotonic()
        quiet, mark = 0, self._mark()
        patience = PATIENCE if self.gateway.kind.scale == 1 else SCALED_PATIENCE
        while time.monotonic() - began < patience:
            busy = await self._one_turn()
            if not self.gateway.alive:
                await asyncio.sleep(0.02)
                return
            if self._mark() != mark or busy or self._unsent():
                quiet, mark = 0, self._mark()
                if time.monotonic() - began > ENDLESS and matches():
                    return
                continue
            quiet += 1
            if quiet >= QUIET_TURNS:
                if matches():
                    return
                await asyncio.sleep(0.005)

    async def _one_turn(self) -> bool:
        """One turn of the gateway's loop, and of ours; whether either has something to do."""
        answer = await self.gateway.ask("ping")
        await asyncio.sleep(0)
        return bool(answer.get("tasks", 0) > OWN_TASKS or self.rig.recorder.playing)

    async def _turns(self, count: int) -> None:
        for _ in range(count):
            await self._one_turn()

    def _mark(self) -> tuple[Any, ...]:
        heard = tuple((len(caller.data), caller.closed.is_set()) for caller in self.callers)
        return heard, self.rig.recorder.mark

    def _unsent(self) -> bool:
        """Whether bytes of ours, as caller or as upstream, are still on their way."""
        numbers = [caller.socket_number for caller in self.callers if not caller.closed.is_set()]
        numbers += [each.fileno() for each in self.rig.recorder.sockets]
        return any(number is not None and number >= 0 and _queued(number) for number in numbers)

    def _look(self, skip: int) -> Seen:
        """What has happened by now."""
        requests = self.rig.recorder.seen
        methods = {received.request_id: received.message.method for received in requests}
        first = self.case.client[0]
        asked = first.value if isinstance(first.value, bytes) else b""

        def method_of(request_id: str, position: int) -> bytes | None:
            known = methods.get(request_id)
            if known is None and position == 0 and asked.startswith(b"HEAD "):
                return b"HEAD"
            return known

        raw = [bytes(caller.data[skip:]) for caller in self.callers]
        answers: list[list[Message]] = [read_answers(data, method_of) for data in raw]
        last = max((caller.last_sign for caller in self.callers), default=self.started)
        return Seen(
            answers=answers,
            raw=raw,
            closed=[caller.closed.is_set() for caller in self.callers],
            requests=requests,
            streams=self.rig.recorder.streams,
            peers=[caller.address for caller in self.callers],
            seconds=max(0.0, last - self.started),
            heard_after=max(0.0, last - self.spoken),
            memory_growth=self.peak,
        )

    def _again_is_possible(self, seen: Seen) -> bool:
        finals = [message for messages in seen.answers for message in messages]
        whole = all(message.whole for message in finals) and bool(finals)
        return whole and not any(seen.closed) and all(r.message.whole for r in seen.requests)

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """Kill the gateway when the upstream has a request, where the case is about that."""
        recorder = self.rig.recorder
        point = _kill_point(self.case) if "crash" in self.case.needs else ""
        if point not in {"", "after_append", "before_upstream_answer"}:
            raise UnsupportedError("crash")

        async def kill(_: Received) -> None:
            await self.gateway.kill()

        recorder.on_request = kill if point == "before_upstream_answer" else None
        try:
            yield
        finally:
            recorder.on_request = None


async def canary(rig: Rig, gateway: Gateway) -> tuple[str, set[int]]:
    """A request on a connection of its own: what is wrong with its answer, and which upstream
    connections carried it.
    """
    rig.canaries += 1
    nonce = f"{rig.canaries}-{random.getrandbits(64):x}"
    caller = await connect(gateway.port, an_address())
    rig.recorder.begin(())
    await caller.send(
        b"GET /echo?nonce=%s HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\nConnection: close\r\n\r\n"
        % (nonce.encode(), rig.corpus.host.encode(), rig.corpus.keys["{{KEY}}"])
    )
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(caller.closed.wait(), PATIENCE)
    caller.hang_up()
    used = {received.connection for received in rig.recorder.seen}
    answers = read_answers(bytes(caller.data), lambda _, __: b"GET")
    right = len(answers) == 1 and answers[0].status == 200 and answers[0].whole
    if right and f"nonce={nonce}" in answers[0].body.decode("latin-1"):
        return "", used
    return f"G3: a canary got {bytes(caller.data[-300:])!r}", used


def _queued(number: int) -> bool:
    """Whether the kernel still holds bytes for which the peer has no room."""
    try:
        answer = fcntl.ioctl(number, _NOT_SENT, b"\0\0\0\0")
    except OSError:
        return False
    return bool(struct.unpack("i", answer)[0])


def _kill_point(case: Case) -> str:
    """Where the gateway dies, in a case that needs `crash`: its target says so."""
    found = _KILL.search(case.sent)
    return "unknown" if found is None else found[1].decode()
