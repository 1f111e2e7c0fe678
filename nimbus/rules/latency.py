# SPDX-License-Identifier: Apache-2.0
"""Histograms of answer times: fixed buckets, so that any two of them add up.

Ten buckets between each power of two of microseconds and the next: a bucket is at most a tenth as
wide as the times in it are long, and what `quantile` answers is at most 5 % (1/21) or 1 µs off.
The bucket of 0 and 1 µs is 0; everything from 2^41 µs (25 days) on
is in the last one.

In a table a histogram is a `bigint[]`: each element is `bucket << 40 | count`, empty buckets are
left out. One bucket may stand there more than once: two histograms are added by putting one behind
the other. In SQL, over any rows of `usage_hours` or `usage_days`:

    SELECT packed >> 40 AS bucket, sum(packed & 1099511627775) AS count
    FROM usage_hours, unnest(latency) AS packed GROUP BY bucket

Source: spec 03 "Usage event": percentiles can be shown for any range.
"""

from collections.abc import Iterable, Mapping
from math import ceil

PER_OCTAVE = 10
OCTAVES = 41
BUCKETS = PER_OCTAVE * OCTAVES
COUNT_BITS = 40
COUNT_MASK = (1 << COUNT_BITS) - 1
_LONGEST = (1 << OCTAVES) - 1


def bucket(us: int) -> int:
    """The bucket of an answer time in microseconds.

    1 → 0, 1,000 → 99 (from 973 to 1,023), 1,024 → 100, 1,500 → 104 (from 1,434 to 1,535).
    """
    time = min(max(us, 1), _LONGEST)
    octave = time.bit_length() - 1
    return PER_OCTAVE * octave + (PER_OCTAVE * time >> octave) - PER_OCTAVE


def bounds(index: int) -> tuple[int, int]:
    """The shortest and the longest time of a bucket, in whole microseconds: 99 → (973, 1023)."""
    return _shortest(index), max(_shortest(index), _shortest(index + 1) - 1)


def quantile(counts: Mapping[int, int], q: float) -> int | None:
    """The time that a share `q` (0 to 1) of the answers did not take longer than, in µs.

    `counts` are the answers by bucket. Of {99: 90, 104: 10}, q = 0.5 → 997 and q = 0.99 → 1,483:
    the value between a bucket's bounds that is as far from each, in proportion. None of nothing.
    """
    total = sum(counts.values())
    if not total:
        return None
    rank = min(total, max(1, ceil(q * total)))
    for index in sorted(counts):
        rank -= counts[index]
        if rank <= 0:
            shortest, longest = bounds(index)
            return round(2 * shortest * longest / (shortest + longest))
    raise AssertionError("the counts add up to their total")


def pack(counts: Mapping[int, int]) -> list[int]:
    """A histogram as it stands in a table: {99: 3} → [99 << 40 | 3]."""
    return [index << COUNT_BITS | counts[index] for index in sorted(counts) if counts[index]]


def unpack(packed: Iterable[int]) -> dict[int, int]:
    """The answers by bucket of what stands in a table, or of several such one behind the other."""
    counts: dict[int, int] = {}
    for one in packed:
        index = one >> COUNT_BITS
        counts[index] = counts.get(index, 0) + (one & COUNT_MASK)
    return counts


def _shortest(index: int) -> int:
    octave, place = divmod(index, PER_OCTAVE)
    return -(-((PER_OCTAVE + place) << octave) // PER_OCTAVE)
