# SPDX-License-Identifier: Apache-2.0
"""Who looks like an abuser at this gateway: counted by the law of `rules/abuse`, reported once.

Keys that an address of a suspect brings and that are not known are refused without a look-up,
until the suspicion ends. Known keys are served from anywhere: a suspicion is no proof, and an
address may be that of many. Blocking is the operator's decision, and comes with the feed.
"""

from collections.abc import Callable
from uuid import UUID

from nimbus.base.log import get_logger
from nimbus.gateway.upstream import Address
from nimbus.rules.abuse import Sign, Watch

log = get_logger("gateway.suspects")


class Suspects:
    """Counts what this process refuses and serves; `report(sign)` tells the house. Instants are
    microseconds of machine time.
    """

    def __init__(self, report: Callable[[Sign], None]) -> None:
        self._watch = Watch()
        self._report = report

    def refused_key(self, address: Address, digest: bytes, now: int) -> None:
        """A key that is none came from this address."""
        self._tell(self._watch.refused_key(address, digest, now))

    def unknown_path(self, address: Address, path: bytes, now: int) -> None:
        """A path that no product has was asked for."""
        self._tell(self._watch.unknown_path(address, path, now))

    def used_key(self, key_id: UUID, address: Address, now: int) -> None:
        """A key was used from an address that it was not seen at."""
        self._tell(self._watch.used_key(key_id, address, now))

    def pause(self, address: Address, now: int) -> int:
        """Microseconds for which unknown keys of this address are refused unseen; 0: none."""
        return self._watch.suspects(address, now)

    def _tell(self, sign: Sign | None) -> None:
        if sign is not None:
            log.warning("signs_of_abuse", kind=sign.kind, count=sign.count)
            self._report(sign)
