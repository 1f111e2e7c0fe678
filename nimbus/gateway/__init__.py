# SPDX-License-Identifier: Apache-2.0
"""The gate: the front door of an installation, and the metered path of its products.

`run(settings)` is one gateway process. Several share the port; each has a journal of its own.
"""

import asyncio
import fcntl
import os
import signal
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from nimbus.base import log
from nimbus.base.config import Settings
from nimbus.base.garbage import collect_rarely
from nimbus.base.ids import new_id
from nimbus.base.process import announce_ready
from nimbus.base.secrets import secret, unseal
from nimbus.gateway.call import Gate
from nimbus.gateway.door import SWEEP_SECONDS, Door
from nimbus.gateway.forward import Pool
from nimbus.gateway.leases import Leases
from nimbus.gateway.link import Link, load_state
from nimbus.gateway.meter import Journal
from nimbus.gateway.server import ClientConnection
from nimbus.gateway.state import State
from nimbus.gateway.store import Store
from nimbus.gateway.suspects import Suspects
from nimbus.gateway.upstream import Upstream
from nimbus.gateway.valkey import Address, read_url
from nimbus.gateway.verify import KeyLookups
from nimbus.gateway.windows import RateWindows

BACKLOG = 2048
SYNC_SECONDS = 0.1
TEND_SECONDS = 1
FIRST_STATE_SECONDS = 5
DRAIN_SECONDS = 10  # for calls in flight, when stopping
LOOPBACK_NAMES = frozenset((b"localhost", b"127.0.0.1", b"[::1]"))
GARBAGE = 10_000  # objects more than there were, before a collection looks at the young ones
API_ANSWER_SECONDS = 600  # a simulated year may take minutes; a dead API is noticed at once

_logger = log.get_logger("gateway")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight and return."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    index, place = _take_place(settings)
    journal = Journal(settings.journal_dir, new_id())
    state = State(lambda sealed: unseal(settings, sealed))
    load_state(settings, state)
    link = Link(settings, state, journal)
    leases = Leases(settings.fleet, link.ask_lease, link.give_back)
    lookups = KeyLookups(link.ask_key)
    link.serve(leases, lookups)
    store = _store(settings, settings.first_place + index)
    fleet = None if store is None else store.fleet
    windows = RateWindows(settings.first_place + index, settings.fleet, fleet)
    gate = Gate(
        state=state,
        windows=windows,
        leases=leases,
        lookups=lookups,
        journal=journal,
        pepper=secret(settings, "pepper_1"),
        suspects=Suspects(link.report),
    )
    pool = Pool(settings.private_networks)
    tls = _tls(settings)
    loop.add_signal_handler(signal.SIGHUP, _renew_certificate, settings, tls)
    door = Door(
        gate,
        pool,
        _api(settings),
        served_hosts(settings),
        settings.trusted_proxies,
        tls=tls is not None,
    )
    tending = [
        loop.create_task(_tend(door, journal, leases)),
        loop.create_task(_sync(journal)),
        loop.create_task(link.run()),
    ]
    if store is not None:
        tending.append(loop.create_task(store.run()))
    with _listener(settings) as listener:
        # Not before the feed was heard: the last state on disk may not know of a revocation.
        await _within(FIRST_STATE_SECONDS, link.tried)
        if store is not None:
            await _within(FIRST_STATE_SECONDS, store.tried)
        server = await loop.create_server(
            lambda: ClientConnection(door), sock=listener, ssl=tls, backlog=BACKLOG
        )
        collect_rarely(GARBAGE)
        announce_ready()
        _logger.info("ready", port=settings.port, gateway=str(journal.producer), index=index)
        await stop.wait()
        server.close()
        await _finish(door)
    for task in tending:
        task.cancel()
    await asyncio.gather(*tending, return_exceptions=True)
    if store is not None:
        await store.stop()
    leases.return_all()
    await link.stop()
    pool.close()
    journal.close()
    os.close(place)
    _logger.info("stopped")


async def _finish(door: Door) -> None:
    """Let the calls in flight end; who takes too long is cut off, its call written down."""
    door.stop()
    if not await _within(DRAIN_SECONDS, door.empty):
        for connection in list(door.connections):
            connection.cut()
        await _within(1, door.empty)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether the event came within this time."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def _tend(door: Door, journal: Journal, leases: Leases) -> None:
    """What is done by the clock: overdue connections, the next segment, idle units."""
    loop = asyncio.get_running_loop()
    tended = loop.time()
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        door.sweep()
        journal.prepare()
        if loop.time() - tended >= TEND_SECONDS:
            tended = loop.time()
            leases.tend()


async def _sync(journal: Journal) -> None:
    """Bring the journal to the disk, now and then; who can't wait for it asks by himself."""
    while True:
        await asyncio.sleep(SYNC_SECONDS)
        await asyncio.shield(journal.sync_soon())


def served_hosts(settings: Settings) -> frozenset[bytes]:
    """The names we answer to: the public one, and this machine's own when embedded."""
    name = urlsplit(settings.public_url).hostname or ""
    ours = f"[{name}]" if ":" in name else name
    loopback = LOOPBACK_NAMES if settings.mode == "embedded" else frozenset[bytes]()
    return loopback | {ours.encode("idna" if not ours.isascii() else "ascii")}


def _store(settings: Settings, place: int) -> Store | None:
    """The store of shared limits, when there are several gateways or one is named."""
    if settings.valkey_url is not None:
        return Store(read_url(settings.valkey_url), place, settings.fleet)
    if settings.embedded_valkey:
        return Store(Address(path=str(settings.valkey_socket)), place, settings.fleet)
    return None


def _api(settings: Settings) -> Upstream:
    return Upstream(
        tls=False,
        host="",
        port=0,
        authority=b"",
        base_path=b"",
        auth=None,
        connect_timeout=2,
        answer_timeout=API_ANSWER_SECONDS,
        socket_path=str(settings.api_socket),
    )


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _renew_certificate(settings: Settings, context: ssl.SSLContext | None) -> None:
    """New connections get the certificate that the files hold now; those that are open stay."""
    if context is None:
        return
    try:
        _tls(settings)  # on its own first: a bad pair of files must not reach the listener
        context.load_cert_chain(str(settings.tls_cert), settings.tls_key)
    except OSError as error:
        _logger.error("certificate_not_renewed", error=str(error))  # noqa: TRY400
    else:
        _logger.info("certificate_renewed")


def _listener(settings: Settings) -> socket.socket:
    """The listening socket, shared with the other gateways of this installation."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((settings.host, settings.port))
    listener.setblocking(False)
    return listener


def _take_place(settings: Settings) -> tuple[int, int]:
    """Which of the gateways this one is, and the lock that says so for as long as it lives.

    While a replacement starts beside the one it replaces, it shares that one's place.
    """
    folder: Path = settings.data_dir / "gateway"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for index in range(settings.gateways):
        lock = os.open(folder / f"place-{index}", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return index, lock
    return 0, os.open(folder / "place-0", os.O_WRONLY)
