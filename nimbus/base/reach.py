# SPDX-License-Identifier: Apache-2.0
"""Which addresses may be connected to on somebody else's word, and whether one answers.

Public addresses only, and the networks of `NIMBUS_PRIVATE_NETWORKS`. A name is resolved once and
the connection made to the address that was vetted, so that a second answer changes nothing.
"""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Literal
from urllib.parse import urlsplit

import anyio

from nimbus.base.config import Network

CONNECT_SECONDS = 3
PORTS = {"http": 80, "https": 443}
# Addresses that carry another one inside: what they lead to can't be told from outside.
_CARRIERS = tuple(
    IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
)

Unreachable = Literal["unresolved", "not_allowed", "no_answer"]


def permitted(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    """Whether we may connect there: 93.184.216.34 yes; 10.0.0.1 only with 10.0.0.0/8 given."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return permitted(address.ipv4_mapped, networks)
    if any(address in network for network in networks):
        return True
    if isinstance(address, IPv6Address) and any(address in carrier for carrier in _CARRIERS):
        return False
    return address.is_global and not address.is_multicast


async def why_unreachable(url: str, networks: Sequence[Network]) -> Unreachable | None:
    """Why `url` (http or https, checked before) can't be reached from here; None when it can.

    Every address of its host must be permitted, and one of them take a connection in 3 seconds.
    """
    parts = urlsplit(url)
    port = parts.port or PORTS[parts.scheme]
    try:
        with anyio.fail_after(CONNECT_SECONDS):
            found = await anyio.getaddrinfo(
                parts.hostname or "", port, type=socket.SocketKind.SOCK_STREAM
            )
    except (OSError, UnicodeError):
        return "unresolved"
    addresses = [ip_address(str(item[4][0]).partition("%")[0]) for item in found]
    if not addresses:
        return "unresolved"
    if not all(permitted(address, networks) for address in addresses):
        return "not_allowed"
    return None if await _answers(str(addresses[0]), port) else "no_answer"


async def _answers(host: str, port: int) -> bool:
    try:
        with anyio.fail_after(CONNECT_SECONDS):
            stream = await anyio.connect_tcp(host, port)
    except OSError:
        return False
    await stream.aclose()
    return True
