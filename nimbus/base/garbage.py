# SPDX-License-Identifier: Apache-2.0
"""Python's collector of reference cycles, in processes that hold much and make few cycles."""

import gc


def collect_rarely(young: int) -> None:
    """Let it pass over all there is now, which stays, and come only after `young` objects more.

    An object goes with its last reference; the collector only finds what refers to itself. A bill
    run holds some hundred thousand objects at a time, which it would look through over and over:
    a third of the run's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(young)
