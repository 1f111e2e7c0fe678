# SPDX-License-Identifier: Apache-2.0
"""Reads of a bounded size: what a socket has is taken into one buffer, and copied from there.

By itself uvloop brings up to 256,000 bytes at once, which a peer that does not read would then
hold in memory; and it reads on while there is more, before what was read could be sent.
"""

import asyncio
from collections import defaultdict
from typing import Final

READ_BYTES: Final = 65_536
BUFFER: Final = memoryview(bytearray(READ_BYTES))  # a read is copied before the next one begins


class BoundedReads(asyncio.BufferedProtocol):
    """A protocol that gets its bytes by `data_received`, at most READ_BYTES at a time; after that
    many `breathe` is called: stop reading for now, and go on in the loop's next round.
    """

    __slots__ = ()

    # Where the loop puts what it reads, whatever size it would like; asked before each read.
    get_buffer = staticmethod(  # type: ignore[assignment]  # no frame of Python for it
        defaultdict[int, memoryview](lambda: BUFFER).__getitem__
    )

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes have been read into BUFFER."""
        self.data_received(BUFFER[:nbytes].tobytes())
        if nbytes == READ_BYTES:
            self.breathe()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        raise NotImplementedError

    def breathe(self) -> None:
        """Let others have their turn before the next read."""
        raise NotImplementedError
