"""With checkpoint_dir, each step leaves one readable file in that folder, whatever its node is called."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocoflow import (
    DefinitionError,
    Flow,
    Node,
    Store,
    StoreError,
    StoreSerializationError,
    WorkflowDB,
    files,
)
from pocoflow.engine.snapshot import snapshot_path


class Count(Node):
    def post(self, store: Store, prep_result: Any, exec_result: Any) -> str:
        store["count"] = store.get("count", 0) + 1
        return "again" if store["count"] < 3 else "done"


class Fail(Node):
    def exec(self, prep_result: Any) -> Any:
        raise ValueError("broken")


def content_of(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_step_leaves_the_store_as_it_was_after_it(tmp_path: Path) -> None:
    node = Count()
    flow = Flow(start=node.then("again", node), checkpoint_dir=tmp_path / "new" / "folder")

    flow.run({"tags": {"a"}})

    folder = tmp_path / "new" / "folder"
    assert names_in(folder) == ["step_000_Count.json", "step_001_Count.json", "step_002_Count.json"]
    assert Store.restore(folder / "step_000_Count.json") == {"tags": {"a"}, "count": 1}
    assert Store.restore(folder / "step_002_Count.json") == {"tags": {"a"}, "count": 3}


def test_a_snapshot_can_be_read_without_pocoflow(tmp_path: Path) -> None:
    Flow(start=Count(), checkpoint_dir=str(tmp_path)).run(Store({"query": "ducks"}, name="research"))

    content = json.loads((tmp_path / "step_000_Count.json").read_text(encoding="utf-8"))

    assert content == {"name": "research", "data": {"query": "ducks", "count": 1}}


def test_a_failed_step_leaves_no_snapshot(tmp_path: Path) -> None:
    start = Count().then("again", Fail())

    with pytest.raises(ValueError, match="broken"):
        Flow(start=start, checkpoint_dir=tmp_path).run({})

    assert names_in(tmp_path) == ["step_000_Count.json"]


def test_another_run_overwrites_the_snapshots_of_the_one_before(tmp_path: Path) -> None:
    flow = Flow(start=Count(), checkpoint_dir=tmp_path)
    flow.run({"run": 1})

    flow.run({"run": 2})

    assert names_in(tmp_path) == ["step_000_Count.json"]
    assert Store.restore(tmp_path / "step_000_Count.json")["run"] == 2


@pytest.mark.parametrize(
    "name",
    [
        "../../escaped",
        "..",
        ".",
        "/etc/pocoflow-escaped",
        "a/b/c",
        "a\\..\\b",
        "C:\\escaped",
        "~root",
        "%2e%2e%2fescaped",
        "$HOME `id` ; *?<>|",
        "con",
        " ",
        "-rf",
        "Grüße \U0001f986",
        "x" * 200,
        "é" * 200,
        "../" * 66,
    ],
)
def test_the_file_of_a_step_lies_in_the_folder_whatever_the_node_is_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a" / "b" / "snapshots"
    node = Count(name=name)

    Flow(start=node, checkpoint_dir=folder).run({})

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent for path in written] == [folder]
    assert written[0].name.startswith("step_000_")
    assert written[0].suffix == ".json"
    assert Store.restore(written[0]) == {"count": 1}


def test_a_name_with_a_null_character_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="must be a printable string"):
        Flow(start=Count(name="a\x00b"), checkpoint_dir=tmp_path / "snapshots")

    assert names_in(tmp_path) == []


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=200), st.integers(0, 10**9))
def test_no_name_leads_out_of_the_folder_or_is_too_long_for_a_file(name: str, step: int) -> None:
    folder = Path("/some/folder").resolve()

    path = snapshot_path(str(folder), step, name).resolve()

    assert path.parent == folder
    assert len(os.fsencode(path.name)) <= 255


@pytest.mark.parametrize("there", [True, False], ids=["a file", "nothing yet"])
def test_a_link_in_the_place_of_a_snapshot_is_replaced_and_not_followed(tmp_path: Path, there: bool) -> None:
    folder, outside = tmp_path / "snapshots", tmp_path / "outside.json"
    folder.mkdir()
    if there:
        outside.write_text("mine")
    (folder / "step_000_Count.json").symlink_to(outside)

    Flow(start=Count(), checkpoint_dir=folder).run({})

    assert not (folder / "step_000_Count.json").is_symlink()
    assert Store.restore(folder / "step_000_Count.json") == {"count": 1}
    assert content_of(outside) == ("mine" if there else None)


@pytest.mark.parametrize("there", [True, False], ids=["a file", "nothing yet"])
def test_a_link_in_the_place_of_a_draft_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Its name cannot be guessed; if it were, the step would fail."""
    folder, outside = tmp_path / "snapshots", tmp_path / "outside.json"
    folder.mkdir()
    if there:
        outside.write_text("mine")
    guessed = UUID(int=7)
    monkeypatch.setattr(files, "uuid4", lambda: guessed)
    (folder / f".{guessed.hex}.part").symlink_to(outside)

    with pytest.raises(StoreError, match="snapshot after node 'Count' cannot be written"):
        Flow(start=Count(), checkpoint_dir=folder).run({})

    assert content_of(outside) == ("mine" if there else None)


def test_a_snapshot_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()

    with pytest.raises(OSError, match="taken"):
        Store({"n": 1}).snapshot(tmp_path / "taken")

    assert names_in(tmp_path) == ["taken"]


def test_a_folder_that_is_a_link_of_ones_own_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "snapshots").symlink_to(tmp_path / "disk")

    Flow(start=Count(), checkpoint_dir=tmp_path / "snapshots").run({})

    assert names_in(tmp_path / "disk") == ["step_000_Count.json"]


def test_a_folder_that_is_a_link_of_somebody_else_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "snapshots").symlink_to(tmp_path / "mine")
    if os.geteuid() == 0:
        os.chown(tmp_path / "snapshots", 65534, 65534, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 65534)

    with pytest.raises(StoreError, match="a link that another user has laid"):
        Flow(start=Count(), checkpoint_dir=tmp_path / "snapshots").run({})

    assert names_in(tmp_path / "mine") == []


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/etc/escaped",
        "..",
        ".",
        "a/../../b",
        "~",
        "$HOME",
        "..\\b",
        "%2e%2e%2f",
        "c:\\x",
        "x" * 200,
    ],
    ids=ascii,
)
def test_neither_a_node_nor_a_run_nor_a_flow_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "deep" / "snapshots"

    Flow(start=Count(name=name), checkpoint_dir=folder, flow_name=name).run({}, run_id=name)

    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.parent == folder
    assert Store.restore(file) == {"count": 1}


@pytest.mark.parametrize(
    ("one", "other"),
    [("a/b", "a%2Fb"), ("a/b", "a_b"), ("x" * 199 + "1", "x" * 199 + "2"), ("é" * 100, "é" * 99 + "e")],
)
def test_different_names_have_different_files(one: str, other: str) -> None:
    assert snapshot_path("folder", 7, one) != snapshot_path("folder", 7, other)


def test_steps_beyond_a_thousand_have_files_of_their_own() -> None:
    names = {snapshot_path("folder", step, "Count").name for step in (99, 100, 999, 1000, 10_000)}

    assert len(names) == 5


def test_runs_at_the_same_time_may_share_a_folder(tmp_path: Path) -> None:
    node = Count()
    flow = Flow(start=node.then("again", node), checkpoint_dir=tmp_path)
    inputs = [{"run": number, "text": "x" * 50_000} for number in range(16)]

    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(flow.run, inputs))

    assert [store["count"] for store in stores] == [3] * 16
    assert names_in(tmp_path) == ["step_000_Count.json", "step_001_Count.json", "step_002_Count.json"]
    assert Store.restore(tmp_path / "step_002_Count.json")["count"] == 3


def test_a_value_that_json_cannot_carry_fails_the_step_although_there_is_no_database(tmp_path: Path) -> None:
    class Bad(Node):
        def post(self, store: Store, prep_result: Any, exec_result: Any) -> None:
            store["handle"] = object()

    with pytest.raises(
        StoreSerializationError, match=r"store\['handle'\] holds a builtins.object.*node 'Bad'"
    ):
        Flow(start=Bad(), checkpoint_dir=tmp_path).run({})

    assert names_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_fails_the_step_and_the_run(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    flow = Flow(start=Count(), checkpoint_dir=tmp_path / "taken", db_path=tmp_path / "runs.db")

    with pytest.raises(StoreError, match="snapshot after node 'Count' cannot be written"):
        flow.run({}, run_id="run-1")

    run = WorkflowDB(tmp_path / "runs.db").get_run("run-1")
    assert run is not None
    assert (run["status"], run["total_steps"]) == ("failed", 0)
    assert "taken" in str(run["error_msg"])
