# SPDX-License-Identifier: Apache-2.0
"""The bench of the gateway: its parts in order."""

from collections.abc import Callable
from contextlib import ExitStack

from nimbus.bench import ground as grounds
from nimbus.bench import market
from nimbus.bench.rounds import Plan, interleave
from nimbus.bench.targets import TARGETS


def run(plan: Plan, only: tuple[str, ...], say: Callable[[str], None]) -> None:
    """Measure these targets; all of them where none is named."""
    chosen = [target for target in TARGETS if not only or target.name in only]
    with grounds.made() as ground, ExitStack() as stack:
        running = {target.name: stack.enter_context(target.start(ground)) for target in chosen}
        rows = interleave(ground, running, market.PREFIX + market.SMALL, plan, say)
    for name, row in rows.items():
        say(
            f"{name:16} {row.per_second:9,.0f}/s  p50 {row.p50_us / 1000:6.2f} ms"
            f"  p99 {row.p99_us / 1000:6.2f} ms"
            f"  CPU {row.cpu_us:6.1f} µs, user {row.cpu_user_us:6.1f}"
        )
