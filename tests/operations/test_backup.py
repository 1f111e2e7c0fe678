# SPDX-License-Identifier: Apache-2.0
"""Backup and restore by the command, of an installation that runs."""

import io
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operations.conftest import Install
from tests.operations.processes import Nimbus, nimbus, processes_of, serving


@pytest.fixture(scope="module")
def system(install: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nimbus]:
    """A running installation that knows one person."""
    with serving(install(tmp_path_factory.mktemp("backup") / "data")) as started:
        made = nimbus("user", "create", "kept@example.org", f"--data-dir={started.data_dir}")
        assert made.returncode == 0, made.stderr
        yield started


@pytest.fixture(scope="module")
def backup_file(system: Nimbus) -> Path:
    file = system.data_dir.with_name("backup.tar")
    written = nimbus("backup", str(file), f"--data-dir={system.data_dir}")
    assert written.returncode == 0, written.stderr
    return file


def test_a_backup_of_a_running_system_is_for_its_owner_alone(backup_file: Path) -> None:
    with tarfile.open(backup_file) as archive:
        names = archive.getnames()

    assert stat.S_IMODE(backup_file.stat().st_mode) == 0o600
    assert {"manifest.json", "database.dump", "secrets/pepper_1", "secrets/seal_key"} <= set(names)


def test_a_restored_system_is_the_one_that_was_backed_up_and_the_three_proofs_hold(
    system: Nimbus, backup_file: Path, tmp_path: Path
) -> None:
    data = tmp_path / "restored"

    restored = nimbus("restore", str(backup_file), f"--data-dir={data}")

    assert restored.returncode == 0, restored.stderr
    assert restored.stdout.count(" 0 differences") == 3
    again = nimbus("user", "create", "kept@example.org", f"--data-dir={data}")
    assert again.returncode == 1
    for secret in (system.data_dir / "secrets").iterdir():
        assert (data / "secrets" / secret.name).read_bytes() == secret.read_bytes()
    assert processes_of(data) == []


def test_nothing_is_overwritten(system: Nimbus, backup_file: Path) -> None:
    before = backup_file.read_bytes()

    over_data = nimbus("restore", str(backup_file), f"--data-dir={system.data_dir}")
    over_file = nimbus("backup", str(backup_file), f"--data-dir={system.data_dir}")

    assert over_data.returncode == 1
    assert "not empty" in over_data.stderr
    assert over_file.returncode == 1
    assert "can't be written" in over_file.stderr
    assert backup_file.read_bytes() == before


def test_what_is_no_backup_is_refused_and_leaves_nothing(backup_file: Path, tmp_path: Path) -> None:
    cut_off = tmp_path / "cut-off.tar"
    cut_off.write_bytes(backup_file.read_bytes()[: backup_file.stat().st_size // 2])
    hostile = tmp_path / "hostile.tar"
    with tarfile.open(hostile, "w") as archive:
        for name, content in (("manifest.json", b'{"format": 1}'), ("secrets/../../out", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    noise = tmp_path / "noise.tar"
    noise.write_bytes(b"no archive")

    for file in (cut_off, hostile, noise, tmp_path / "absent.tar"):
        data = tmp_path / f"data-{file.stem}"
        refused = nimbus("restore", str(file), f"--data-dir={data}")

        assert refused.returncode == 1
        assert "Traceback" not in refused.stderr
        assert not any((data / part).exists() for part in ("pg", "secrets", "journal"))
    assert not (tmp_path / "out").exists()
