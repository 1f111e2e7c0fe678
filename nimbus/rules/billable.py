# SPDX-License-Identifier: Apache-2.0
"""Is a call billed? By how it ended, what the upstream answered, and what the product bills.

    how the call ended                                    billed
    answered        the answer was passed on whole        when the status is a billable one
    caller_left     the caller went away                  the same, had the upstream answered
    request_broken  the caller's body broke off or        the same
                    could not be read
    refused         the gateway refused it                never
    unreachable     no connection to the upstream         never
    timeout         the upstream did not answer in time   never
    broken_off      the upstream broke its answer off     never

What the upstream has answered is not undone by a caller who leaves. Test calls are never billed,
nor is a status of 500 or more. Billable are all statuses below 500 unless the product says
otherwise. Sources: spec 03 "What is billed", spec 09 U-08; published in docs/reference/billable.md.
"""

import re
from collections.abc import Iterable
from typing import Final, Literal

from nimbus.rules.metering import Environment

End = Literal[
    "answered",
    "caller_left",
    "request_broken",
    "refused",
    "unreachable",
    "timeout",
    "broken_off",
]
FAILING: Final = 500
BELOW_500: Final = frozenset(range(100, FAILING))
_BY_ANSWER = frozenset(("answered", "caller_left", "request_broken"))
_STATUSES = re.compile(r"([1-4])xx|([1-4][0-9]{2})(?:-([1-4][0-9]{2}))?", re.ASCII)


def billable(
    end: End,
    status: int | None,
    environment: Environment,
    statuses: frozenset[int] = BELOW_500,
) -> bool:
    """Whether the call is billed; if not, it gives its units back. Total: every end with every
    status has an answer. `status` is the upstream's, None when it has not answered.

    answered, 404, Live: yes; the same with statuses 200-299: no; timeout, None, Live: no.
    """
    return (
        environment == "Live"
        and end in _BY_ANSWER
        and status is not None
        and status < FAILING
        and status in statuses
    )


def read_statuses(texts: Iterable[str]) -> frozenset[int]:
    """The statuses that `2xx`, `404` or `200-299` stand for, together; raises ValueError for any
    other text, for a range that runs backwards, and for a status of 500 or more.

    ["2xx", "404"] → 200 to 299 and 404.
    """
    found: set[int] = set()
    for text in texts:
        match = _STATUSES.fullmatch(text)
        if match is None:
            raise ValueError("a class (2xx), a status (404) or a range (200-299), below 500")
        first = int(match[1] or 0) * 100 or int(match[2])
        last = first + 99 if match[1] else int(match[3] or first)
        if last < first:
            raise ValueError("the range runs backwards")
        found.update(range(first, last + 1))
    return frozenset(found)
