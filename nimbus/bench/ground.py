# SPDX-License-Identifier: Apache-2.0
"""What the targets stand on: the upstream, the database with customers and keys."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nimbus.bench import machine, market, parts
from nimbus.bench.load import CONFIGS
from nimbus.bench.processes import LOOPBACK, free_port, program, wait_until_answers
from nimbus.bench.targets import Ground

BLOB_BYTES = 100_000
ANSWER_BYTES = 207


@contextmanager
def made() -> Iterator[Ground]:
    """Everything but the targets, in a folder that goes away with the block.

    From here on this process and all it starts run on the load's core, but for the targets.
    """
    cores = machine.choose_cores()
    usable = os.sched_getaffinity(0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nimbus-bench-")))
        folder.chmod(0o711)
        os.sched_setaffinity(0, {cores.load})
        stack.callback(os.sched_setaffinity, 0, usable)
        upstream_port = stack.enter_context(_upstream(folder, cores.load))
        settings = stack.enter_context(market.database(folder))
        keys = market.open_market(settings, f"http://{LOOPBACK}:{upstream_port}{market.PREFIX}")
        keys_file = folder / "keys"
        keys_file.write_text("\n".join(keys) + "\n", encoding="ascii")
        yield Ground(folder, cores, upstream_port, tuple(keys), keys_file, settings)


@contextmanager
def _upstream(folder: Path, core: int) -> Iterator[int]:
    port = free_port()
    (folder / "blob").write_bytes(os.urandom(BLOB_BYTES))
    (folder / "blob").chmod(0o644)
    text = (CONFIGS / "upstream.conf").read_text(encoding="utf-8")
    for name, value in (("FOLDER", folder), ("PORT", port), ("BODY", _answer())):
        text = text.replace(f"@{name}@", str(value))
    path = folder / "upstream.conf"
    path.write_text(text, encoding="utf-8")
    log = folder / "upstream.out"
    words = [parts.found(parts.NGINX) or "nginx", "-c", str(path), "-p", str(folder)]
    with program(words, core, log) as process:
        wait_until_answers(process, log, port, "/", {})
        yield port


def _answer() -> str:
    """207 bytes of JSON."""
    content = {"id": 1, "name": "Noordzee", "turbines": [3, 1, 4, 1, 5, 9, 2, 6], "note": ""}
    missing = ANSWER_BYTES - len(json.dumps(content))
    return json.dumps({**content, "note": "x" * missing})
