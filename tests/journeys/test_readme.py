# SPDX-License-Identifier: Apache-2.0
"""Every command that the documents show does what they say, in their order, in one session."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.operations.processes import ROOT, environment, free_port, run_file, wait_for

DOCUMENTS = (
    "README.md",
    "docs/guides/consumer.md",
    "docs/guides/provider.md",
    "docs/operate/README.md",
    "docs/reference/performance.md",
)
TOUR = 'NIMBUS_DEMO_PASSWORD="seven windmills at dawn" make run ARGS="--test-clock"'
PART_OF_THE_BENCH = (
    'make bench ARGS="--rounds 3 --seconds 3 --only nginx,nimbus --parts speed,latency --check"'
)
# Blocks that the session leaves out, and why.
ELSEWHERE = {
    "make run": "it stays in the foreground; the tour's own start is the same command with options",
    "make test": "it is what runs this test",
    ".venv/bin/nimbus demo story --out build/story": "tests/journeys/test_story.py runs it",
    "make bench": "it needs wrk, nginx and minutes of a calm machine; tests/bench tries its parts",
    PART_OF_THE_BENCH: "as above",
    ".venv/bin/nimbus bench usage": "it needs a calm machine; tests/bench tries its parts",
    ".venv/bin/nimbus bench docs": "it needs a run of the bench; tests/bench tries it",
    "make performance": "as `make bench`",
    TOUR: "it stays in the foreground: the fixture runs it as another terminal would",
}
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("bash", "-euo", "pipefail")
MARK = "#### the next block is "
START_SECONDS = 600


@dataclass(frozen=True)
class Session:
    """What each block printed, by its text; and the folder of the system that it spoke to."""

    printed: dict[str, str]
    data_dir: Path

    def of(self, words: str) -> str:
        """The output of the one block that holds these words."""
        (found,) = [text for block, text in self.printed.items() if words in block]
        return found


def blocks() -> list[str]:
    """The commands of all documents in their order."""
    return [
        block.strip()
        for document in DOCUMENTS
        for block in BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))
    ]


@contextmanager
def another_terminal(command: str, variables: dict[str, str], data_dir: Path) -> Iterator[None]:
    """The command while the block runs; it has to end well when its system is asked to stop."""
    output = data_dir.with_name("terminal.out")
    with (
        output.open("wb") as file,
        subprocess.Popen(
            [*SHELL, "-c", command], cwd=ROOT, env=variables, stdout=file, stderr=file
        ) as process,
    ):
        try:

            def is_ready() -> bool:
                assert process.poll() is None, output.read_text()
                return "Nimbus is ready" in output.read_text()

            wait_for(is_ready, f"ready:\n{output.read_text()}", START_SECONDS)
            yield
            os.kill(int(str(run_file(data_dir)["pid"])), signal.SIGTERM)
            assert process.wait(180) == 0, output.read_text()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """One bash session with every block, beside the system that the tour starts."""
    data_dir = tmp_path_factory.mktemp("readme") / "data"
    place = {"NIMBUS_DATA_DIR": str(data_dir), "NIMBUS_PORT": str(free_port())}
    variables = {**environment(), **place}
    shown = [block for block in blocks() if block not in ELSEWHERE]
    script = "\n".join(f"printf '\\n%s\\n' '{MARK}{n}'\n{block}" for n, block in enumerate(shown))
    with another_terminal(TOUR, variables, data_dir):
        started = time.monotonic()
        run = subprocess.run(
            [*SHELL, "-c", script],
            cwd=ROOT,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    print(f"{len(shown)} blocks took {time.monotonic() - started:.1f} s")
    parts = re.split(rf"^{MARK}\d+\n", run.stdout, flags=re.MULTILINE)[1:]
    at = shown[len(parts) - 1] if parts else "the beginning"
    assert run.returncode == 0, f"status {run.returncode} at\n{at}\n{run.stdout}\n{run.stderr}"
    return Session(dict(zip(shown, parts, strict=True)), data_dir)


def test_the_blocks_that_are_run_elsewhere_are_in_the_documents() -> None:
    assert set(ELSEWHERE) <= set(blocks())


def test_the_tour_signs_in_calls_and_is_refused_without_a_key(session: Session) -> None:
    assert '"name":"Tapas B.V."' in session.of("dashboard")
    called = session.of("Noordzee")
    assert "HTTP/1.1 200" in called
    assert called.count('"name":"Noordzee"') == 2
    assert session.of("api/v1/wind/farms | field code").strip() == "missing_api_key"


def test_the_tour_ends_with_an_invoice_of_the_calls_it_made(session: Session) -> None:
    closed = session.of("advance_to")
    assert "billing.invoice" in closed
    assert '"status":"Sent"' in closed
    assert (ROOT / "build" / "invoice.pdf").read_bytes().startswith(b"%PDF")


def test_the_proofs_hold_after_the_tour(session: Session) -> None:
    tour, operating = (
        printed for block, printed in session.printed.items() if "nimbus ledger check" in block
    )
    assert tour.count(" 0 differences") == 3
    assert operating.count(" 0 differences") == 2
    assert '"ok": true' in operating


def test_the_guides_revoke_a_key_and_publish_a_product(session: Session) -> None:
    assert session.of("-X DELETE $URL/api/developer").split()[0] == "Revoked"
    assert '"name":"stock.tapas.example"' in session.of("/hosts")
    assert '"billable_statuses":["2xx","404"]' in session.of("billable_statuses")
    assert '"status":"published"' in session.of("/publish")


def test_the_guide_reports_usage_in_every_form_and_each_event_counts_once(
    session: Session,
) -> None:
    assert '"accepted":2' in session.of("night-1")
    assert '"code":"negative"' in session.of("night-1")
    assert session.of("cloudevents+json").count('"accepted":1') == 1
    assert '"duplicates":1' in session.of("cloudevents+json")


def test_the_operators_commands_find_nothing_wrong(session: Session) -> None:
    assert "wrong" not in session.of("nimbus check").split("NIMBUS_")[0]
    assert "Backup written" in session.of("nimbus backup")
    assert "is a platform admin" in session.of("user create")
