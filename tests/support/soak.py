# SPDX-License-Identifier: Apache-2.0
"""How far a rig goes: a sample in `make test`, the full counts in `make soak`.

A test takes the fixture `soak` and asks it: `rounds = soak.count(15, 1000)`. Its randomness comes
from `soak.random`, whose seed is printed and repeated with TEST_SEED.
"""

import os
import random
from dataclasses import dataclass, field


def a_seed() -> int:
    """The seed of this run: TEST_SEED when given, else a fresh one."""
    return int(os.environ.get("TEST_SEED") or random.SystemRandom().randrange(1 << 32))


@dataclass(frozen=True)
class Soak:
    """Whether this is the long run, how many hours of load were asked for, and which part of the
    full counts.
    """

    full: bool = False
    hours: float = 0
    part: float = 1
    seed: int = field(default_factory=a_seed)

    @property
    def random(self) -> random.Random:
        """Chance that TEST_SEED repeats, from its beginning."""
        return random.Random(self.seed)

    def count(self, sample: int, full: int) -> int:
        """How often: the sample in `make test`, all of it, or a part, in `make soak`."""
        return max(sample, round(full * self.part)) if self.full else sample

    def say(self, text: str) -> None:
        """Progress and measurements of a long run; shown by `make soak`, kept quiet otherwise."""
        print(text, flush=True)
