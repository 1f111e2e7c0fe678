# SPDX-License-Identifier: Apache-2.0
"""TLS on both sides: a listener by certificate files, upstreams whose certificate is checked."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nimbus.base import config
from nimbus.base.config import Settings
from nimbus.gateway import _renew_certificate, _tls
from tests.gateway.house import Caller, open_gate, open_upstream, product_record, request

pytestmark = pytest.mark.anyio


def make_files(folder: Path, serial: int = 1) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_files(tmp_path_factory.mktemp("tls"))


def settings_with(files: tuple[Path, Path]) -> Settings:
    return config.load(
        {
            "NIMBUS_DATA_DIR": str(files[0].parent),
            "NIMBUS_TLS_CERT": str(files[0]),
            "NIMBUS_TLS_KEY": str(files[1]),
        }
    )


def listener(files: tuple[Path, Path]) -> ssl.SSLContext:
    """As the settings make it."""
    context = _tls(settings_with(files))
    assert context is not None
    return context


async def test_callers_may_come_by_tls_and_upstreams_hear_of_it(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    trusting = ssl.create_default_context(cafile=str(files[0]))
    async with (
        open_upstream() as upstream,
        open_gate(tmp_path, upstream.port, tls=listener(files)) as gate,
        gate.caller(trusting) as caller,
    ):
        for _ in range(2):
            await caller.send(request(b"POST", b"/echo", b"Content-Length: 5") + b"hello")
            assert (await caller.answer()).json["body"] == "hello"
        assert upstream.seen[0].fields["x-forwarded-proto"] == "https"
        await caller.send(request(b"GET", b"/echo", b"Connection: close"))
        assert (await caller.answer()).status == 200
        assert await caller.closed()


@pytest.mark.parametrize("trusted", [True, False])
async def test_an_upstream_by_tls_has_to_prove_its_name(
    files: tuple[Path, Path], tmp_path: Path, trusted: bool
) -> None:
    ours = ssl.create_default_context(cafile=str(files[0]) if trusted else None)
    async with (
        open_upstream(tls=listener(files)) as upstream,
        open_gate(tmp_path, upstream.port, upstream_tls=ours) as gate,
    ):
        record = product_record(upstream.port)
        record["upstreams"]["Live"]["base_url"] = f"https://localhost:{upstream.port}"
        gate.feed("product", record)
        answer = await gate.ask(b"GET", b"/echo")
        if trusted:
            assert answer.status == 200
            assert upstream.seen[0].fields["host"] == f"localhost:{upstream.port}"
        else:
            assert (answer.status, answer.code) == (502, "upstream_unreachable")
            assert upstream.seen == []


async def test_a_renewed_certificate_is_for_new_connections_and_open_ones_stay(
    tmp_path: Path,
) -> None:
    files = make_files(tmp_path, serial=1)
    settings, context = settings_with(files), listener(files)
    any_name = ssl.create_default_context()
    any_name.check_hostname, any_name.verify_mode = False, ssl.CERT_NONE
    async with (
        open_upstream() as upstream,
        open_gate(tmp_path, upstream.port, tls=context) as gate,
        gate.caller(any_name) as old,
    ):
        make_files(tmp_path, serial=2)
        _renew_certificate(settings, context)
        async with gate.caller(any_name) as new:
            assert (serial_seen(old), serial_seen(new)) == (1, 2)
            files[1].write_bytes(b"no key")
            _renew_certificate(settings, context)
            async with gate.caller(any_name) as newer:
                assert serial_seen(newer) == 2, "files that are no pair change nothing"
            for caller in (old, new):
                await caller.send(request(b"GET", b"/echo"))
                assert (await caller.answer()).status == 200


def serial_seen(caller: Caller) -> int:
    tls: ssl.SSLObject = caller.writer.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number
