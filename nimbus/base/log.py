# SPDX-License-Identifier: Apache-2.0
"""Structured logs: one JSON object a line, on standard error, with no secret in any."""

import logging
import sys
from typing import Any

# structlog takes with it what is there of rich (for coloured terminals) and greenlet. Our lines are
# JSON, none is written in a greenlet, and the two are 6 MB of every process.
_LEFT_OUT = [name for name in ("rich", "greenlet") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_LEFT_OUT))  # type: ignore[arg-type]
import structlog  # noqa: E402

for _name in _LEFT_OUT:
    del sys.modules[_name]

MAX_VALUE_CHARS = 2000
SECRET_WORDS = ("secret", "password", "token", "authorization", "api_key", "cookie")


def _cap_and_mask(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    for name, value in event.items():
        if any(word in name.lower() for word in SECRET_WORDS):
            event[name] = "***"
        elif isinstance(value, str) and len(value) > MAX_VALUE_CHARS:
            event[name] = value[:MAX_VALUE_CHARS] + "…"
    return event


def configure(level: str, role: str) -> None:
    """Set up logging of this process: `level` a standard name, `role` goes into every line.

    Libraries that log by the standard library come out in the same form, from warnings on.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _cap_and_mask,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(role=role)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def get_logger(name: str) -> Any:
    """A logger whose lines carry `part=name`."""
    return structlog.get_logger(part=name)
