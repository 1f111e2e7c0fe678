# SPDX-License-Identifier: Apache-2.0
"""When a failing upstream is left alone: the circuit breaker.

Closed, every call goes. After FAILURES_TO_OPEN failures in a row it opens: calls are refused at
once, which spares the callers the wait and the upstream the load. After a pause one call is let
through on trial; its success closes the breaker, its failure doubles the pause, up to MAX_PAUSE.

A failure is that no answer came: no connection, no answer in time, or one that is no HTTP. An
answer of any status is an answer; it is the upstream's word and is passed on.

Instants are machine time in whole microseconds from any origin that only goes forward.
"""

from nimbus.rules.limits import SECOND

FAILURES_TO_OPEN = 10
FIRST_PAUSE = SECOND
MAX_PAUSE = 30 * SECOND


class Breaker:
    """The breaker of one upstream in one gateway process.

    Ten failures in a row at 0 s open it: at 0.5 s a call is refused, at 1 s one is let through on
    trial. That one fails too: the next trial is at 3 s, then at 7 s, ... at last every 30 s.
    `failures` is how many there were in a row, up to those that open it; at 0 `start`, `succeed`
    and `abandon` change nothing.
    """

    __slots__ = ("_on_trial", "_pause", "_retry_at", "failures")

    def __init__(self) -> None:
        self.failures = 0
        self._pause = FIRST_PAUSE
        self._retry_at = 0
        self._on_trial = False

    def wait(self, now: int) -> int:
        """Microseconds until a call may be tried; 0: now. While a trial runs, one more pause."""
        if self.failures < FAILURES_TO_OPEN:
            return 0
        if self._on_trial:
            return self._pause
        return max(0, self._retry_at - now)

    def start(self) -> None:
        """A call goes to the upstream; of an open breaker it is the trial."""
        self._on_trial = self.failures >= FAILURES_TO_OPEN

    def succeed(self) -> None:
        """The upstream has answered: all is well."""
        self.failures = 0
        self._pause = FIRST_PAUSE
        self._on_trial = False

    def fail(self, now: int) -> None:
        """No answer came. Failures of calls that were under way when it opened change nothing."""
        if self.failures < FAILURES_TO_OPEN:
            self.failures += 1
        elif self._on_trial:
            self._pause = min(self._pause * 2, MAX_PAUSE)
        else:
            return
        self._on_trial = False
        self._retry_at = now + self._pause

    def abandon(self) -> None:
        """A call ended without a verdict, such as when its caller left: the next is the trial."""
        self._on_trial = False
