# SPDX-License-Identifier: Apache-2.0
"""Limits that several gateways share: tokens granted by the store, and what holds without it.

The law, for a limit of A calls in any window W and a burst B (none: B = 0). Nothing here reads or
writes a socket: `store.py` carries what `Fleet` asks, `rates.lua` answers.

1. A token is admitted within its life after it was granted, on this gateway's clock from the
   sending of its ask. The store keeps A and B in windows of W + life; a bucket rather counts
   tokens as granted later by what their life is longer than usual, while it is so full anyway.
2. Unused tokens go back once, when their life is over; of an unknown outcome never.
3. A gateway counts as present until LAPSE after the store's last instant that it has heard. It
   admits by its own share only from then on, and the store lends the others no absent share.
4. By itself a gateway admits its share (`limits.share`). A bucket opens empty, so that what was
   granted before fits in. A window admits, until one window after, no more than this gateway's own
   calls that lie in it as it opens: their places come free, and nobody else's are known.
5. Each remembers its own calls of the window. When the store's data may be lost (another server,
   empty, flushed, a clock that stepped), or a gateway has admitted by itself, a new epoch begins:
   all stop, tell the store what they remember, and go on when all have.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Final

from nimbus.gateway.valkey import ErrorReply, GarbageError, Reply, Words
from nimbus.rules.limits import (
    SECOND,
    TRIP,
    Limiter,
    Rate,
    SlidingWindow,
    limiter,
    share,
    token_life,
)

LAPSE: Final = SECOND
LIFE_MAX: Final = 3 * SECOND // 10
TRUST_WAIT: Final = SECOND  # for the others to tell, before a limit opens by the store's own rule
CLOCK_STEP: Final = SECOND // 20
MOMENT: Final = SECOND // 20
MOST_WANTED: Final = 4_096
PIECES: Final = 24  # of a window, when it is told
FLEET: Final = b"{nimbus}:fleet"
_LATE: Final = -3
ASK_AGAIN: Final = 1  # a pause of a microsecond: the store has not been asked


class Phase(Enum):
    """Whose word holds: this gateway's share, nobody's for a moment, the store's."""

    ALONE = 1
    JOINING = 2
    SHARED = 3


class Shared:
    """One shared limit at this gateway: its tokens, and the same questions as other limiters."""

    __slots__ = (
        "_alone",
        "_asked_at",
        "_back",
        "_busy",
        "_expires",
        "_fleet",
        "_key",
        "_left",
        "_life",
        "_losses",
        "_lot",
        "_mark",
        "_owed",
        "_own",
        "_own_interval",
        "_refill",
        "_reset_at",
        "_retry_at",
        "_tokens",
        "_until",
        "_used",
        "asking",
        "capacity",
        "promised",
        "promised_until",
        "rate",
        "waiters",
    )

    def __init__(self, fleet: "Fleet", key: bytes, rate: Rate) -> None:
        self.rate = rate
        self.capacity = rate.burst or rate.amount
        self.promised = self.promised_until = 0
        self.asking = False
        self.waiters: list[asyncio.Future[None]] = []
        self._fleet = fleet
        self._key = key
        self._life = token_life(rate)
        self._tokens = self._expires = 0
        self._mark = b"0"
        self._back: tuple[int, bytes] = (0, b"0")
        self._lot = 0  # tokens of the last grant, which `_mark` names
        self._refill = 0  # asked for again when no more tokens than this are left
        self._until = 0  # the store is not asked again before
        self._retry_at = 0  # when it will have a token, if nobody else takes it
        self._left = self.capacity  # in the store, as last heard
        self._reset_at = 0
        self._busy = False  # calls come side by side: tokens may be fetched ahead
        self._used = 0
        self._asked_at = 0
        self._losses = -1
        # What this gateway has admitted itself: of a window the calls, of a bucket what it owes
        # while it drains at this gateway's share of the rate.
        window = not (rate.burst and rate.amount)
        self._own = SlidingWindow(rate) if window else None
        self._owed = 0
        self._own_interval = fleet.gateways * rate.period_s * SECOND // max(1, rate.amount)
        self._alone: Limiter | None = None

    def admit(self, now: int) -> int:
        """Count a call if it is admitted: 0, or microseconds until one may be."""
        pause = self.wait(now)
        if not pause:
            self.take(now)
        return pause

    def wait(self, now: int) -> int:
        """Microseconds until a call may be admitted; 0 is now. See `may_come`."""
        if now < self._expires:
            return 0
        if self._fleet.phase is Phase.ALONE:
            return self._fleet.opens - now if self.may_come(now) else self._by_itself(now).wait(now)
        return max(ASK_AGAIN, self._retry_at - now)

    def take(self, now: int) -> None:
        """Count a call that was admitted."""
        if self._own is not None:
            self._own.take(now)
        else:
            interval = self._own_interval
            owed = max(self._owed, now) + interval
            self._owed = min(owed, now + self.capacity * interval)
        if now < self._expires:
            self._used += 1
            self._tokens -= 1
            if not self._tokens:
                self._expires = 0
            if self._tokens == self._refill and self._busy and not self.asking:
                self._fleet.want(self)
            return
        self._fleet.admitted_alone = True
        alone = self._by_itself(now)
        if alone is not self._own:
            alone.take(now)

    def may_come(self, now: int) -> bool:
        """Whether a call that found no token should await the store's answer."""
        if self._fleet.phase is Phase.ALONE:
            return now < self._fleet.opens
        # Who comes a moment too early waits for the moment, if nobody waits there yet.
        return now >= self._until or (self._retry_at - now <= MOMENT and not self.waiters)

    def rest(self, now: int) -> int:
        """Microseconds in which the store need not be asked."""
        return max(0, self._until - now)

    def remaining(self, now: int) -> int:
        """How many calls would be admitted, as last heard."""
        if self._fleet.phase is Phase.ALONE:
            return 0 if now < self._fleet.opens else self._by_itself(now).remaining(now)
        return self._left + (self._tokens if now < self._expires else 0)

    def reset(self, now: int) -> int:
        """Microseconds until more calls may become available."""
        if self._fleet.phase is Phase.ALONE:
            closed = self._fleet.opens - now
            return closed if closed > 0 else self._by_itself(now).reset(now)
        return max(0, self._reset_at - now)

    def idle(self, now: int) -> bool:
        """Whether forgetting this limiter changes nothing."""
        forgotten = self._own.idle(now) if self._own is not None else self._owed <= now
        alone = self._alone is None or self._alone.idle(now)
        return forgotten and alone and not (self._tokens or self.asking or self.waiters)

    # What the fleet calls.

    def drop(self) -> None:
        """The tokens are worth nothing any more, and nothing is known of the store."""
        self._tokens = self._expires = self._until = self._retry_at = 0
        self._back = (0, b"0")
        self.asking = False
        self._wake()

    def holds(self, now: int) -> bool:
        """Whether it has tokens that live."""
        return now < self._expires

    def collect(self, now: int) -> bool:
        """Put aside tokens that were not used in their life; whether there are any to return."""
        if self._tokens and now >= self._expires:
            # Older tokens than the last grant's were used first, or are not named any more.
            self._back = (min(self._tokens, self._lot), self._mark)
            self._tokens = self._expires = 0
        return self._back[0] > 0

    def question(self, now: int) -> tuple[bytes, ...]:
        """The words of an ask, from its life on; what goes back is said once."""
        self.collect(now)
        expected, waiting = 0, len(self.waiters)
        life = self._fleet.life(self._life if self._busy else min(self._life, TRIP))
        if self._busy:
            expected = self._used * life // max(1, now - self._asked_at)
            self._busy = waiting > 1 or expected > 1
        elif waiting > 1:
            self._busy = True
        self._used, self._asked_at = 0, now
        (back, mark), self._back = self._back, (0, b"0")
        rate = self.rate
        return (
            b"%d" % life,
            b"bucket" if self._own is None else b"window",
            b"%d" % rate.amount,
            b"%d" % (rate.burst or 0),
            b"%d" % (rate.period_s * SECOND),
            b"%d" % self._life,
            b"%d" % waiting,
            b"%d" % min(expected, MOST_WANTED),
            b"%d" % back,
            mark,
        )

    def answer(self, reply: Reply, asked: int, life: int, now: int) -> None:
        """What the store has granted to an ask sent at `asked`."""
        granted, left, pause, mark, reset = _numbers(reply, 5)
        self.asking = False
        self._left = left
        self._reset_at = now + reset
        self._retry_at = now + pause
        # Tokens of other gateways may come back before: that is asked for now and then.
        self._until = now + min(pause, max(self._life, pause // 16), SECOND)
        if granted:
            self.collect(now)
            # Older tokens live shorter: all take the shorter life.
            expires = asked + life
            self._expires = min(self._expires, expires) if self._tokens else expires
            self._tokens += granted
            self._lot, self._mark = granted, b"%d" % mark
            self._refill = self._tokens // 2 if self._busy else -1
        self._wake()

    def told(self, now: int) -> tuple[bytes, ...] | None:
        """The words of what is remembered; None when that is nothing."""
        kind, tail = b"window", []
        if self._own is None:
            tokens = -(-max(0, self._owed - now) // self._own_interval)
            kind, tail = b"bucket", [tokens, LIFE_MAX]
            if not tokens:
                return None
        else:
            for leaves, calls in self._own.calls(now, PIECES):
                tail += [leaves + LIFE_MAX, calls]
            if not tail:
                return None
            tail = [0, *tail]
        rate = self.rate
        numbers = (rate.amount, rate.burst or 0, rate.period_s * SECOND, self._life, *tail)
        return (kind, *(b"%d" % number for number in numbers))

    @property
    def key(self) -> bytes:
        """Its name in the store, without the epoch."""
        return self._key

    def _wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _by_itself(self, now: int) -> Limiter:
        """The limiter that holds without the store, once that has opened."""
        fleet = self._fleet
        part = share(self.rate, fleet.place, fleet.gateways)
        if self._losses != fleet.losses:
            self._losses = fleet.losses
            opens = fleet.opens if fleet.losses else None
            self._alone = self._own or limiter(part, opens)
            if self._own is not None:
                self._own.wait(now)
                before = self._own.total if fleet.losses else part.amount
                self._own.capacity = min(part.amount, before)
        if self._own is not None and now >= fleet.opens + self._hold():
            self._own.capacity = part.amount
        assert self._alone is not None
        return self._alone

    def _hold(self) -> int:
        return self.rate.period_s * SECOND + LIFE_MAX if self._fleet.losses else 0


class Fleet:
    """The gateways that share limits, as one of them sees it; machine time in microseconds.

    `flush` is called when there is something to ask: once for all asks of a tick.
    """

    def __init__(self, place: int, gateways: int, now: int, flush: Callable[[], None]) -> None:
        assert 0 <= place < gateways, "a gateway has its place among the others"
        self.place = place
        self.gateways = gateways
        self.phase = Phase.JOINING
        self.opens = 0
        self.losses = 0
        self.admitted_alone = False
        self.limits: dict[bytes, Shared] = {}
        self.lent: set[Shared] = set()  # limits that hold tokens
        self._flush = flush
        self._wanted: list[Shared] = []
        self._epoch = b"0"  # that we have told
        self._heard = 0  # the store's last instant that we know
        self._heard_at = now  # whoever had this place before may have been heard of until now
        self._behind: int | None = None  # the store's clock minus ours, at least
        self._ahead = 0  # the same, at most
        self._trip = self._swing = 0  # the way to the store and back: the mean, the deviation
        self._told_at = 0

    def want(self, limit: Shared) -> None:
        """Ask for tokens of a limit with the next flush."""
        limit.asking = True
        if not self._wanted:
            self._flush()
        self._wanted.append(limit)

    def forget(self, now: int) -> None:
        """Drop the limits of which nothing has to be known."""
        self.limits = {key: each for key, each in self.limits.items() if not each.idle(now)}

    def collect(self, now: int) -> bool:
        """Return tokens whose life is over; whether there are others still."""
        for limit in list(self.lent):
            if not limit.holds(now):
                self.lent.discard(limit)
                if limit.collect(now) and not limit.asking:
                    self.want(limit)
        return bool(self.lent)

    def life(self, usual: int) -> int:
        """The life of a token asked for now: longer while the store answers slowly.

        The mean of the trips and five deviations, much as TCP waits for an answer (RFC 6298). A
        token that comes later goes back; a longer life costs a short window more than that does.
        """
        return min(max(usual, self._trip + 5 * self._swing), LIFE_MAX)

    def lost(self, now: int) -> None:
        """The store does not answer: from a lapse after it was last heard, by our share."""
        self._wanted.clear()
        self._behind = None
        self.lent.clear()
        self._leave(now)
        self._heard = 0

    def _leave(self, now: int) -> None:
        for limit in self.limits.values():
            limit.drop()
        if self.phase is not Phase.ALONE:
            self.phase = Phase.ALONE
            self.opens = max(now, self._heard_at + LAPSE)
            if self._heard:
                self.losses += 1

    def hello(self, run: bytes) -> Words:
        """The words with which we show that we live; without a word heard, that we come."""
        doubted = b"0"
        if self.admitted_alone and self.phase is Phase.ALONE:
            doubted = self._epoch
        return (
            b"hello",
            b"%d" % self.place,
            b"%d" % self.gateways,
            run,
            b"%d" % (self._heard if self.phase is not Phase.ALONE else 0),
            self._epoch if doubted == b"0" else b"0",
            doubted,
            b"%d" % LAPSE,
        )

    def greeted(self, reply: Reply, asked: int, now: int) -> list[tuple[bytes, Words]]:
        """The answer to a hello sent at `asked`: what is to be told now, limits' keys and words."""
        instant, epoch, trusted = _numbers(reply, 3)
        if not epoch:
            raise GarbageError("the store serves a fleet of another size")
        stepped = self._keep_time(instant, asked, now)
        name = b"%d" % epoch
        if name == self._epoch and (stepped or self.admitted_alone):
            # Its windows are wrong now: the next hello asks for a new epoch.
            self._heard_at = now
            self._leave(now)
            self.admitted_alone = True
            return []
        self._heard, self._heard_at = instant, now
        if name != self._epoch:
            self.phase = Phase.JOINING
            self._epoch, self._told_at, self.admitted_alone = name, now, False
            return self._tell(now)
        if self.phase is Phase.ALONE:
            self.phase, self._told_at = Phase.JOINING, now
        if self.phase is Phase.JOINING and (trusted or now - self._told_at > TRUST_WAIT):
            self.phase = Phase.SHARED
        return []

    def questions(self, now: int) -> list[tuple[Shared, int, bytes, Words]]:
        """The asks of this tick: the limit, its tokens' life, its key, and the words."""
        wanted, self._wanted = self._wanted, []
        if self.phase is not Phase.SHARED or self._behind is None:
            for limit in wanted:
                limit.asking = False
            return []
        found = []
        head = (b"ask", self._epoch, b"%d" % self.gateways, b"%d" % (now + self._behind))
        tail = (b"%d" % LAPSE, b"%d" % LIFE_MAX)
        for limit in wanted:
            words = limit.question(now)
            key = self.key(limit)
            found.append((limit, int(words[0]), key, (*head, *words, *tail)))
        return found

    def answered(self, limit: Shared, reply: Reply, asked: int, life: int, now: int) -> bool:
        """The answer to an ask; whether the store wants to be greeted first."""
        late = isinstance(reply, list) and reply == [_LATE]
        off = min(now - asked, LIFE_MAX) - self._trip
        self._swing += (abs(off) - self._swing) // 4
        self._trip += off // 8
        if isinstance(reply, list) and len(reply) == 1:
            limit.drop()
            return not late
        limit.answer(reply, asked, life, now)
        if limit.holds(now):
            self.lent.add(limit)
        return False

    def key(self, limit: Shared) -> bytes:
        """A limit's key in the store."""
        return b"{nimbus}:%b:%b" % (self._epoch, limit.key)

    def _tell(self, now: int) -> list[tuple[bytes, Words]]:
        found = []
        self._wanted.clear()
        for limit in self.limits.values():
            limit.drop()
            words = limit.told(now)
            if words is not None:
                found.append((self.key(limit), (b"tell", self._epoch, *words)))
        return found

    def _keep_time(self, instant: int, asked: int, now: int) -> bool:
        """Follow the store's clock; whether it has stepped against ours."""
        least, most = instant - now, instant - asked
        if self._behind is None:
            self._behind, self._ahead = least, most
            return False
        stepped = least > self._ahead + CLOCK_STEP or most < self._behind - CLOCK_STEP
        if stepped:
            self._behind, self._ahead = least, most
        else:
            # Clocks of two machines drift: what was found holds for a while.
            self._behind = max(self._behind - 20, least)
            self._ahead = min(self._ahead + 20, most)
        return stepped


def _numbers(reply: Reply, count: int) -> list[int]:
    """A reply of so many whole numbers; raises GarbageError for any other."""
    if isinstance(reply, ErrorReply):
        raise GarbageError(reply.text.decode("ascii", "replace"))
    if not isinstance(reply, list) or len(reply) != count:
        raise GarbageError("not an answer to what was asked")
    numbers = [each for each in reply if isinstance(each, int)]
    if len(numbers) != count:
        raise GarbageError("not an answer to what was asked")
    return numbers
