# SPDX-License-Identifier: Apache-2.0
"""Several gateways' limits over a real Valkey in simulated time.

The gateways' own code and the store's own script run; the clock, the network between them and
the callers are ours. Every instant is in microseconds of one true time, which no participant
knows: each gateway's clock and the store's have offsets of their own.
"""

import heapq
import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from nimbus.gateway.tokens import FLEET, Fleet, Phase, Shared
from nimbus.gateway.valkey import ErrorReply, GarbageError, Reply, Words
from nimbus.rules.limits import SECOND, Rate
from tests.support.valkeys import Client, simulated_script

START = 10**12
PATIENCE = 2 * SECOND


@dataclass
class Waiter:
    """A call that awaits the store's word; what a future is in a gateway."""

    wake: Callable[[], None]
    over: bool = False

    def done(self) -> bool:
        return self.over

    def set_result(self, _: None) -> None:
        self.over = True
        self.wake()


@dataclass
class World:
    """True time, what happens when, and the store."""

    client: Client
    seed: int = 0
    trip: tuple[int, int] = (60, 200)  # one way between a gateway and the store
    now: int = START
    store_offset: int = 10**15
    run: bytes = b"run-1"
    up: bool = True
    admitted: list[tuple[int, int]] = field(default_factory=list)  # (instant, gateway)
    refused: int = 0
    events: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    serial: int = 0
    garbage: Reply = None
    greeting: int = SECOND // 10
    stalls: int = 0  # how long, at most, a gateway's process is not scheduled, ten times a second

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.client.call(b"FLUSHALL")
        self.script = self.client.call(b"SCRIPT", b"LOAD", simulated_script())

    def at(self, instant: int, action: Callable[[], None]) -> None:
        self.serial += 1
        heapq.heappush(self.events, (instant, self.serial, action))

    def until(self, instant: int) -> None:
        while self.events and self.events[0][0] <= instant:
            self.now, _, action = heapq.heappop(self.events)
            action()
        self.now = instant

    def latency(self) -> int:
        return self.random.randint(*self.trip)

    def evaluate(self, key: bytes, words: Words) -> Reply:
        """What the store answers at this instant."""
        if self.garbage is not None:
            return self.garbage
        assert isinstance(self.script, bytes)
        instant = b"%d" % (self.now + self.store_offset)
        keys = (b"2", FLEET, key) if key else (b"1", FLEET)
        call = (b"EVALSHA", self.script, *keys, *words)
        reply = self.client.calls([(b"SET", b"simulated", instant), call])[1]
        assert not isinstance(reply, ErrorReply), reply.text
        return reply

    def worst(self, length: int) -> int:
        """The most calls that all gateways together admitted in any window."""
        return worst_window(sorted(instant for instant, _ in self.admitted), length)


def worst_window(instants: list[int], length: int) -> int:
    """The most instants, which are in order, in any half-open window of this length."""
    return max(
        (bisect_left(instants, start + length) - n for n, start in enumerate(instants)), default=0
    )


class Gateway:
    """One gateway: its fleet, and its way to the store, as in `store.py`."""

    def __init__(self, world: World, place: int, gateways: int, offset: int = 0) -> None:
        self.world = world
        self.place = place
        self.offset = offset
        self.connected = world.up
        self.cut = False  # this one alone can't reach the store
        self.alive = True
        self._epochs = 0
        self._greeting_since: int | None = None
        self._sweeping = False
        self._last = 0
        self._runs_from = 0
        self.fleet = Fleet(place, gateways, self.clock(), self._flush)
        self.at(world.now + world.random.randint(0, 1000), self._greet)
        if world.stalls:
            self._stall()

    def clock(self) -> int:
        return self.world.now + self.offset

    def at(self, instant: int, action: Callable[[], None]) -> None:
        """Do something in this process: once it is scheduled again, if it is not."""

        def run() -> None:
            if self.world.now < self._runs_from:
                self.at(self._runs_from, action)
            else:
                action()

        self.world.at(instant, run)

    def _stall(self) -> None:
        world = self.world
        self._runs_from = world.now + world.random.randint(0, world.stalls)
        world.at(self._runs_from + world.random.randint(0, SECOND // 5), self._stall)

    def limit(self, name: bytes, rate: Rate) -> Shared:
        found = self.fleet.limits.get(name)
        if found is None:
            found = self.fleet.limits[name] = Shared(self.fleet, name, rate)
        return found

    def call(
        self,
        limit: Shared,
        give_up: int | None = None,
        answered: Callable[[], None] | None = None,
    ) -> None:
        """One call comes here; when it finds no token it waits if one may come."""
        if not self.alive:
            return
        world, now = self.world, self.clock()
        pause = limit.admit(now)
        give_up = world.now + PATIENCE if give_up is None else give_up
        if not pause or not limit.may_come(now) or world.now >= give_up:
            if pause:
                world.refused += 1
            else:
                world.admitted.append((world.now, self.place))
            if answered is not None:
                answered()
            return
        again = partial(self.call, limit, give_up, answered)
        if self.fleet.phase is not Phase.SHARED:
            self.at(world.now + 20_000, again)
            return
        waiter = Waiter(lambda: self.at(world.now, again))
        limit.waiters.append(waiter)  # type: ignore[arg-type]
        rest = limit.rest(now)
        if rest:
            self.at(world.now + rest, lambda: self._rested(limit, waiter))
        elif not limit.asking:
            self.fleet.want(limit)

    def _rested(self, limit: Shared, waiter: Waiter) -> None:
        if not waiter.over:
            limit.waiters.remove(waiter)  # type: ignore[arg-type]
            waiter.set_result(None)

    def kill(self) -> None:
        """End without a word."""
        self.alive = False

    def _flush(self) -> None:
        self.at(self.world.now, self._ask)

    def _ask(self) -> None:
        asked = self.clock()
        for limit, life, key, words in self.fleet.questions(asked):
            self._send(key, words, partial(self._answered, limit, asked, life))

    def _answered(self, limit: Shared, asked: int, life: int, reply: Reply) -> None:
        if self.fleet.answered(limit, reply, asked, life, self.clock()):
            self._hello()
        if self.fleet.lent and not self._sweeping:
            self._sweeping = True
            self.at(self.world.now + 20_000, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = self.alive and self.fleet.collect(self.clock())
        if self._sweeping:
            self.at(self.world.now + 20_000, self._sweep)

    def _greet(self) -> None:
        world = self.world
        if not self.alive:
            return
        since = self._greeting_since
        if since is not None and world.now - since > 3 * world.greeting:
            self._lose()
        elif since is None:
            self._hello()
        joining = self.fleet.phase is Phase.JOINING
        self.at(world.now + (20_000 if joining else world.greeting), self._greet)

    def _hello(self) -> None:
        self._greeting_since = self.world.now
        words = self.fleet.hello(self.world.run)
        self._send(b"", words, partial(self._greeted, self.clock()))

    def _greeted(self, asked: int, reply: Reply) -> None:
        self._greeting_since = None
        for key, words in self.fleet.greeted(reply, asked, self.clock()):
            self._send(key, words, lambda _: None)

    def _lose(self) -> None:
        self._epochs += 1
        self._greeting_since = None
        self.fleet.lost(self.clock())

    def _send(self, key: bytes, words: Words, then: Callable[[Reply], None]) -> None:
        world, epoch = self.world, self._epochs

        def execute() -> None:
            if world.up and not self.cut:
                reply = world.evaluate(key, words)
                self.at(world.now + world.latency(), lambda: receive(reply))

        def receive(reply: Reply) -> None:
            if epoch != self._epochs or self.cut or not self.alive:
                return
            try:
                then(reply)
            except GarbageError:
                self._lose()

        # One connection keeps the order of what is sent on it.
        self._last = max(self._last, world.now + world.latency())
        world.at(self._last, execute)
