# SPDX-License-Identifier: Apache-2.0
"""What drives the fuzz targets: atheris for as long as is asked in `make soak`, a mutator of our
own for a seeded sample in `make test`, and where atheris has no wheel. Both begin with the bytes
of the hostile HTTP corpus.
"""

import importlib.util
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType

from nimbus.gateway import body, head
from tests.support.soak import a_seed
from tools.corpus.form import read_corpus

CORPUS = Path(__file__).resolve().parents[1] / "cases" / "http_corpus.json"
LARGEST = 4096  # bytes of an input
# What parsers stumble over; mutations put these in.
WORDS = (
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"\0", b"\t", b" ", b":", b",", b";", b"\x0b", b"\x80",
    b"Content-Length: ", b"Transfer-Encoding: chunked", b"Host: gw.test", b"0\r\n\r\n", b"chunked",
    b"HTTP/1.1", b"HTTP/1.0", b"ffffffffffffffff", b"+5", b"0x5", b"5_0", b"%2e", b"%2f", b"%5c",
    b"..", b"//", b"..;", b"?", b"#", b"http://gw.test", b"Connection: close", b"HEAD ", b"204",
)  # fmt: skip

Target = Callable[[bytes], None]


def client_seeds() -> list[bytes]:
    """What the corpus's callers send."""
    return [case.sent for case in read_corpus(CORPUS).cases if case.sent]


def upstream_seeds() -> list[bytes]:
    """What the corpus's upstreams answer."""
    scripts = [case.scripted for case in read_corpus(CORPUS).cases]
    sent = [b"".join(step.value for step in script if step.name == "send") for script in scripts]
    return [data for data in sent if data]


def target_seeds() -> list[bytes]:
    """The targets in what the corpus's callers send."""
    found = [re.match(rb"[A-Za-z]+ ([^ \r\n]+) HTTP", data) for data in client_seeds()]
    return [match[1] for match in found if match]


def chunk_seeds() -> list[bytes]:
    """What follows the heads that announce chunks."""
    parts = [data.partition(b"\r\n\r\n") for data in (*client_seeds(), *upstream_seeds())]
    return [body for head, _, body in parts if b"chunked" in head.lower() and body]


def mutate(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """One to four small changes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(changed))
        way = chance.randrange(6)
        if way == 0:
            changed[at:at] = chance.choice(WORDS)
        elif way == 1:
            del changed[at : at + chance.randint(1, 8)]
        elif way == 2:
            changed[at : at + 1] = bytes((chance.randrange(256),))
        elif way == 3:
            end = at + chance.randint(1, 40)
            changed[at:at] = changed[at:end]
        elif way == 4:
            other = chance.choice(others)
            start = chance.randint(0, len(other))
            changed[at:] = other[start:]
        else:
            word = chance.choice(WORDS)
            changed[at : at + len(word)] = word
    return bytes(changed[:LARGEST])


def sample(target: Target, seeds: Iterable[bytes], rounds: int, seed: int) -> None:
    """Every seed as it is, then so many mutated ones; an input that fails is in the error."""
    chance, known = random.Random(seed), list(seeds)
    for data in known:
        _try(target, data)
    for _ in range(rounds):
        _try(target, mutate(chance.choice(known), known, chance))


def _try(target: Target, data: bytes) -> None:
    try:
        target(data)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} {error} by {data!r}") from error


def run(target: Target, seeds: Iterable[bytes], seconds: int) -> None:
    """Fuzz for this long; ends the process with a status other than 0 when something is found."""
    seed, known = a_seed(), list(seeds)
    print(f"TEST_SEED={seed}", flush=True)
    if importlib.util.find_spec("atheris") is None:
        print("no atheris for this Python: our own mutator", flush=True)
        ends, rounds = time.monotonic() + seconds, 0
        while time.monotonic() < ends:
            sample(target, known, 2_000, seed + rounds)
            rounds += 1
        return
    import atheris

    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(known):
            Path(folder, f"{number:04}").write_bytes(data)
        words = Path(folder, "..", f"{Path(folder).name}.dict").resolve()
        words.write_text("".join(f'"{_quoted(word)}"\n' for word in WORDS), "ascii")
        for function in _functions_of(head, body):
            atheris.instrument_func(function)
        options = [f"-seed={seed % (1 << 31)}", f"-max_total_time={seconds}", "-verbosity=0"]
        options += [f"-max_len={LARGEST}", f"-dict={words}", "-artifact_prefix=build/fuzz-"]
        Path("build").mkdir(exist_ok=True)
        atheris.Setup([sys.argv[0], *options, folder], lambda data: _try(target, data))
        atheris.Fuzz()


def _functions_of(*modules: ModuleType) -> Iterator[FunctionType]:
    """The functions and methods that these modules define."""
    for module in modules:
        for value in vars(module).values():
            members = vars(value).values() if isinstance(value, type) else [value]
            for member in members:
                if isinstance(member, FunctionType) and member.__module__ == module.__name__:
                    yield member


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)
