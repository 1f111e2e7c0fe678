# SPDX-License-Identifier: Apache-2.0
"""Where calls go: an upstream's address, and which addresses may be connected to at all.

The names of upstreams are given by strangers. A name is resolved for each new connection, each
address is vetted, and the connection goes to the vetted address, not to the name again, so that
a name that changes its mind between check and use gains nothing.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from nimbus.gateway.head import BadMessageError, split_host

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_CONCURRENT = 256

# Addresses that carry another inside, by which a private one could be reached.
_TUNNELS = (ip_network("64:ff9b::/96"), ip_network("2001::/32"), ip_network("2002::/16"))


class UnreachableError(Exception):
    """No address of the upstream may be connected to, or none answers."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream: where it is, what is put in front of paths, how it knows us.

    `auth` is the header line (name, value) of its own credentials. Timeouts in seconds;
    `max_concurrent` is how many calls one gateway lets it have at a time.
    `socket_path` instead of host and port is the management API's Unix socket. `owner` names the
    product and environment: upstreams of two owners share nothing, wherever they are.
    """

    tls: bool
    host: str
    port: int
    authority: bytes
    base_path: bytes
    auth: tuple[bytes, bytes] | None
    connect_timeout: float
    answer_timeout: float
    socket_path: str | None = None
    owner: str = ""
    max_concurrent: int = MAX_CONCURRENT
    place: tuple[str, bool, str, int, str | None] = field(init=False)  # shares connections
    answer_us: int = field(init=False)

    def __post_init__(self) -> None:
        place = (self.owner, self.tls, self.host, self.port, self.socket_path)
        object.__setattr__(self, "place", place)
        object.__setattr__(self, "answer_us", int(self.answer_timeout * 1_000_000))


def read_upstream(
    record: Mapping[str, Any], unseal: Callable[[str], bytes], owner: str = ""
) -> Upstream:
    """An upstream from its record in the feed; raises ValueError when it can't be one."""
    parts = urlsplit(record["base_url"])
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query:
        raise ValueError("the base address is not an http address")
    authority = parts.netloc.rpartition("@")[2].encode("ascii")
    try:
        split_host(authority)
    except BadMessageError:
        raise ValueError("the base address has no readable host") from None
    auth = None
    if record.get("auth_header") and record.get("auth_secret_sealed"):
        auth = record["auth_header"].encode("ascii"), unseal(record["auth_secret_sealed"])
        if b"\r" in b"".join(auth) or b"\n" in b"".join(auth):
            raise ValueError("the credentials can't be a header line")
    return Upstream(
        tls=parts.scheme == "https",
        host=parts.hostname,
        port=parts.port or (443 if parts.scheme == "https" else 80),
        authority=authority,
        base_path=parts.path.rstrip("/").encode("ascii"),
        auth=auth,
        connect_timeout=record["connect_timeout_ms"] / 1000,
        answer_timeout=record["answer_timeout_ms"] / 1000,
        max_concurrent=record.get("max_concurrent", MAX_CONCURRENT),
        owner=owner,
    )


def may_connect(address: Address, private_networks: tuple[Network, ...]) -> bool:
    """Whether an upstream may be at this address: a global one, or in a network that the
    operator has named. What is mapped into IPv6 is judged by what it stands for.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(
        address.version == network.version and address in network for network in private_networks
    ):
        return True
    if any(address in tunnel for tunnel in _TUNNELS if tunnel.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def vetted_addresses(
    host: str, port: int, private_networks: tuple[Network, ...]
) -> list[str]:
    """The addresses of `host` that may be connected to, in the resolver's order; raises
    UnreachableError when there is none.
    """
    try:
        literal = ip_address(host)
    except ValueError:
        try:
            found = await asyncio.get_running_loop().run_in_executor(None, _resolve, host, port)
        except OSError:
            raise UnreachableError("the name can't be resolved") from None
    else:
        found = [literal]
    vetted = [str(address) for address in found if may_connect(address, private_networks)]
    if not vetted:
        raise UnreachableError("no address of the upstream may be connected to")
    return vetted


def _resolve(host: str, port: int) -> list[Address]:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))
