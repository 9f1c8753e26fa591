"""Where SQLite may keep a file that several processes share, and which SQLite may."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pocoflow import DatabaseError, Flow, Node
from pocoflow.db import shared_file
from pocoflow.db.shared_file import refuse_network_file, warn_of_old_sqlite
from pocoflow.db.workflow_db import WorkflowDB

MountAt = Callable[..., None]


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MountAt:
    """Set what the kernel says is mounted: pairs of place and kind."""

    def mounts(*known: tuple[str, str]) -> None:
        table = tmp_path / "mounts"
        table.write_text("".join(f"device {place} {kind} rw,relatime 0 0\n" for place, kind in known))
        monkeypatch.setattr(shared_file, "MOUNTS", table)

    return mounts


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "smb3", "9p", "fuse.sshfs", "fuse"])
def test_a_file_on_a_network_file_system_is_refused_with_a_way_out(mounts: MountAt, kind: str) -> None:
    mounts(("/", "ext4"), ("/srv/share", kind))

    with pytest.raises(
        DatabaseError, match=rf"'/srv/share/a/runs.db' .*\({kind}\).* local disk, or .*postgresql"
    ):
        refuse_network_file(Path("/srv/share/a/runs.db"))


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "tmpfs", "overlay", "fuseblk", "fuse.fuse-overlayfs", "nfsd"]
)
def test_a_file_on_a_disk_of_this_machine_is_taken(mounts: MountAt, kind: str) -> None:
    mounts(("/", "nfs4"), ("/srv/share", kind))

    refuse_network_file(Path("/srv/share/runs.db"))


def test_a_folder_beside_a_network_folder_is_none(mounts: MountAt) -> None:
    mounts(("/", "ext4"), ("/srv/share", "nfs4"))

    refuse_network_file(Path("/srv/shared/runs.db"))


def test_of_two_file_systems_in_one_place_the_last_counts(mounts: MountAt) -> None:
    mounts(("/", "ext4"), ("/srv", "autofs"), ("/srv", "nfs4"))

    with pytest.raises(DatabaseError, match="nfs4"):
        refuse_network_file(Path("/srv/runs.db"))


def test_a_place_with_a_space_in_its_name_is_found(mounts: MountAt) -> None:
    mounts(("/", "ext4"), ("/srv/our\\040share", "nfs4"))

    with pytest.raises(DatabaseError, match="nfs4"):
        refuse_network_file(Path("/srv/our share/runs.db"))


def test_a_link_to_a_network_folder_does_not_hide_it(mounts: MountAt, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/srv/share")
    mounts(("/", "ext4"), ("/srv/share", "nfs4"))

    with pytest.raises(DatabaseError, match="nfs4"):
        refuse_network_file(tmp_path / "link" / "runs.db")


def test_where_nobody_tells_what_is_mounted_all_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_file, "MOUNTS", tmp_path / "missing")

    refuse_network_file(tmp_path / "runs.db")


def test_no_database_is_made_on_a_network_file_system(mounts: MountAt, tmp_path: Path) -> None:
    mounts(("/", "ext4"), (str(tmp_path), "nfs4"))

    with pytest.raises(DatabaseError, match="network file system"):
        WorkflowDB(tmp_path / "new" / "runs.db")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def warnings_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[[str], list[str]]]:
    """The warnings of a process with a given SQLite that asks twice."""
    warn_of_old_sqlite.cache_clear()

    def warnings_of(version: str) -> list[str]:
        monkeypatch.setattr(sqlite3, "sqlite_version", version)
        monkeypatch.setattr(sqlite3, "sqlite_version_info", tuple(map(int, version.split("."))))
        with caplog.at_level(logging.WARNING, logger="pocoflow"):
            warn_of_old_sqlite()
            warn_of_old_sqlite()
        return [record.getMessage() for record in caplog.records]

    yield warnings_of
    warn_of_old_sqlite.cache_clear()


@pytest.mark.parametrize("version", ["3.40.1", "3.44.5", "3.45.0", "3.50.6", "3.51.2"])
def test_a_version_that_can_corrupt_a_shared_file_is_named_once(
    warnings_of: Callable[[str], list[str]], version: str
) -> None:
    (warning,) = warnings_of(version)

    assert version in warning
    assert "3.51.3" in warning


@pytest.mark.parametrize("version", ["3.44.6", "3.50.7", "3.51.3", "3.52.0", "4.0.0"])
def test_a_mended_version_is_not_talked_about(warnings_of: Callable[[str], list[str]], version: str) -> None:
    assert warnings_of(version) == []


def test_a_process_that_has_the_file_for_itself_is_not_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    flow = Flow(Node(), db_path=tmp_path / "runs.db")

    flow.run({})
    flow.run_background({}).wait(30)

    assert "SQLite" not in caplog.text
