# SPDX-License-Identifier: Apache-2.0
"""Configuration: environment variables `NIMBUS_…`, each also as `…_FILE`, or a TOML file.

`load()` reads once, at the start of a process; unknown settings are errors. The gateway imports
this module, so it holds nothing but the standard library.
"""

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network


class ConfigError(Exception):
    """A setting is unknown or can't be read; the message names it and says what is expected."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its environment name, how its text is read, its default as text, its meaning."""

    name: str
    parse: Callable[[str], Any]
    default: str | None
    meaning: str


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _flag(text: str) -> bool:
    return {"1": True, "true": True, "0": False, "false": False, "": False}[text.lower()]


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text

    return parse


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("an http or https address")
    return text.rstrip("/")


def _valkey_url(text: str) -> str:
    if urlsplit(text).scheme not in {"valkey", "valkeys", "redis", "rediss", "unix"}:
        raise ValueError("valkey://host:port, valkeys:// for TLS, or unix:///path")
    return text


def _days(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not least <= int(text) <= most:
            raise ValueError(f"a number of days from {least} to {most}")
        return int(text)

    return parse


def _place(text: str) -> str:
    number, _, nodes = text.partition("/")
    if not 1 <= int(number) <= int(nodes):
        raise ValueError("number/nodes, such as 2/3")
    return text


OPTIONS = (
    Option("DATA_DIR", Path, None, "where everything is kept"),
    Option("PORT", int, "8000", "the port that the gateway listens on"),
    Option("HOST", str, "127.0.0.1", "the address that the gateway listens on"),
    Option("DATABASE_URL", str, None, "an ordinary PostgreSQL (15 or later) for the application"),
    Option("DATABASE_OWNER_URL", str, None, "the same database as a role that may make roles"),
    Option(
        "VALKEY_URL",
        _valkey_url,
        None,
        "shared rate limits of all gateways: valkey://, valkeys:// (TLS), redis://, unix://;"
        " without it several gateways of one node have a Valkey of their own",
    ),
    Option(
        "NODE",
        _place,
        "1/1",
        "which of how many machines with as many gateways each this is, such as 2/3",
    ),
    Option("PUBLIC_URL", _url, None, "how the world reaches this installation"),
    Option("SMTP_URL", str, None, "smtp://user:password@host:port; without it mail is kept inside"),
    Option("MAIL_FROM", str, "Nimbus <nimbus@localhost>", "the sender of mail"),
    Option("TLS_CERT", Path, None, "certificate file of the listener"),
    Option("TLS_KEY", Path, None, "key file of the listener"),
    Option("GATEWAYS", int, "1", "how many gateway processes share the port"),
    Option("TRUSTED_PROXIES", _networks, "", "networks whose X-Forwarded-For is believed"),
    Option("MODE", _one_of("embedded", "production"), "embedded", "embedded or production"),
    Option("PRIVATE_NETWORKS", _networks, "", "private networks that upstreams may be in"),
    Option("WEBHOOK_CA_FILE", Path, None, "further certificate authorities for webhooks"),
    Option(
        "LOG_LEVEL",
        _one_of("debug", "info", "warning", "error"),
        "info",
        "the least that is logged",
    ),
    Option("OTLP_URL", _url, None, "where traces are sent (OpenTelemetry over HTTP); none without"),
    Option("TRACED_CALLS", int, "100", "of the calls through the gateway one of so many is traced"),
    Option("EVENT_DAYS", _days(62, 36_500), "400", "for how long single usage events are kept"),
    Option("ADDRESS_DAYS", _days(1, 366), "30", "after how many days callers' addresses are cut"),
    Option("DEMO_PASSWORD", str, None, "the password of all demo accounts"),
    Option("TEST_CLOCK", _flag, "0", "business time stands still until it is advanced"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process. Paths are absolute; see `OPTIONS` for the meaning of each."""

    data_dir: Path
    port: int
    host: str
    database_url: str | None
    database_owner_url: str | None
    valkey_url: str | None
    node: str
    public_url: str
    smtp_url: str | None
    mail_from: str
    tls_cert: Path | None
    tls_key: Path | None
    gateways: int
    trusted_proxies: tuple[Network, ...]
    mode: str
    private_networks: tuple[Network, ...]
    webhook_ca_file: Path | None
    log_level: str
    otlp_url: str | None
    traced_calls: int
    event_days: int
    address_days: int
    demo_password: str | None
    test_clock: bool

    @property
    def embedded_database(self) -> bool:
        """Whether the supervisor runs its own PostgreSQL."""
        return self.database_url is None

    @property
    def nodes(self) -> int:
        """How many machines this installation has."""
        return int(self.node.partition("/")[2])

    @property
    def fleet(self) -> int:
        """How many gateways share limits, over all machines."""
        return self.gateways * self.nodes

    @property
    def first_place(self) -> int:
        """The place of this machine's first gateway among all, from 0."""
        return self.gateways * (int(self.node.partition("/")[0]) - 1)

    @property
    def embedded_valkey(self) -> bool:
        """Whether the supervisor runs a Valkey of its own, for limits that gateways share."""
        return self.valkey_url is None and self.gateways > 1

    @property
    def valkey_socket(self) -> Path:
        return self.run_dir / "valkey.sock"

    @property
    def pg_dir(self) -> Path:
        return self.data_dir / "pg"

    @property
    def journal_dir(self) -> Path:
        return self.data_dir / "journal"

    @property
    def exports_dir(self) -> Path:
        return self.data_dir / "exports"

    @property
    def secrets_dir(self) -> Path:
        return self.data_dir / "secrets"

    @property
    def metrics_dir(self) -> Path:
        """Where processes keep what they count."""
        return self.data_dir / "metrics"

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "log"

    @property
    def run_dir(self) -> Path:
        """The folder of Unix sockets: short, because a socket's path has at most 107 bytes."""
        mark = hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"nimbus-{mark}"

    @property
    def api_socket(self) -> Path:
        return self.run_dir / "api.sock"


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """`./.nimbus` in a checkout, `/var/lib/nimbus` for root, else the user's data folder."""
    if Path("pyproject.toml").is_file() and Path("nimbus").is_dir():
        return Path(".nimbus")
    if os.geteuid() == 0:
        return Path("/var/lib/nimbus")
    base = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "nimbus"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings; raises `ConfigError` for an unknown, unreadable or missing one."""
    environ = os.environ if environ is None else environ
    given = {**_from_toml(environ), **_from_environment(environ)}
    values: dict[str, Any] = {}
    for option in OPTIONS:
        text = given.get(option.name, option.default)
        try:
            values[option.name.lower()] = None if text is None else option.parse(text)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"NIMBUS_{option.name}: {error or 'not understood'}") from None
    values["data_dir"] = (values["data_dir"] or default_data_dir(environ)).absolute()
    values["public_url"] = values["public_url"] or f"http://{values['host']}:{values['port']}"
    for name in ("tls_cert", "tls_key", "webhook_ca_file"):
        if values[name] is not None and not values[name].is_file():
            raise ConfigError(f"NIMBUS_{name.upper()}: no such file")
    if values["database_url"] and not values["database_owner_url"]:
        raise ConfigError("NIMBUS_DATABASE_OWNER_URL is needed beside NIMBUS_DATABASE_URL")
    if values["gateways"] < 1:
        raise ConfigError("NIMBUS_GATEWAYS: at least 1")
    if not values["node"].endswith("/1") and values["valkey_url"] is None:
        raise ConfigError("NIMBUS_VALKEY_URL is needed where NIMBUS_NODE names several machines")
    return Settings(**values)


def to_environment(settings: Settings) -> dict[str, str]:
    """The variables that make `load()` give the same settings in a child process."""
    result = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value is None or value == ():
            continue
        if isinstance(value, tuple):
            value = ",".join(str(item) for item in value)
        if isinstance(value, bool):
            value = int(value)
        result[f"NIMBUS_{field.name.upper()}"] = str(value)
    return result


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    known = {option.name for option in OPTIONS}
    given: dict[str, str] = {}
    for variable, text in environ.items():
        if not variable.startswith("NIMBUS_") or variable == "NIMBUS_CONFIG":
            continue
        name = variable.removeprefix("NIMBUS_")
        if name in known:
            given[name] = text
        elif name.endswith("_FILE") and name.removesuffix("_FILE") in known:
            try:
                given[name.removesuffix("_FILE")] = Path(text).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"{variable}: {error.strerror}") from None
        else:
            raise ConfigError(f"{variable} is not a setting of Nimbus")
    return given


def _from_toml(environ: Mapping[str, str]) -> dict[str, str]:
    path = environ.get("NIMBUS_CONFIG")
    if not path:
        return {}
    known = {option.name for option in OPTIONS}
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"NIMBUS_CONFIG: {error}") from None
    given = {}
    for name, value in content.items():
        if name.upper() not in known:
            raise ConfigError(f"{name} in {path} is not a setting of Nimbus")
        given[name.upper()] = ",".join(value) if isinstance(value, list) else str(value)
    return given
