"""`exec_fallback` stands in for an `exec` that has failed for good, and for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from pocoflow import Flow, Node, StepTimeoutError, Store, WorkflowDB

RUN = "run-1"


class Unlucky(Node):
    """Fails each time, and then makes do."""

    max_retries = 2

    def prep(self, store: Store) -> str:
        return str(store["query"])

    def exec(self, query: str) -> Any:
        raise ConnectionError(f"no answer to {query}")

    def exec_fallback(self, query: str, exc: BaseException) -> Any:
        return {"query": query, "error": f"{type(exc).__name__}: {exc}"}

    def post(self, store: Store, query: str, result: Any) -> str:
        store["result"] = result
        return "made do" if isinstance(result, dict) else "done"


class Asked(Unlucky):
    """Notes each time that it is asked for its fallback."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def exec_fallback(self, query: str, exc: BaseException) -> Any:
        self.asked.append(type(exc).__name__)
        return super().exec_fallback(query, exc)


class SecondTime(Asked):
    tried = False

    def exec(self, query: str) -> str:
        if not self.tried:
            self.tried = True
            raise ConnectionError("the first time")
        return "an answer"


class PrepFails(Asked):
    max_retries = 1  # on its last try, so that nothing but the kind of error keeps the fallback away

    def prep(self, store: Store) -> NoReturn:
        raise ValueError("from prep")


class PostFails(Asked):
    max_retries = 1  # on its last try, so that nothing but the kind of error keeps the fallback away

    def exec(self, query: str) -> str:
        return "an answer"

    def post(self, store: Store, query: str, result: Any) -> NoReturn:
        raise ValueError("from post")


class PostAfterFallbackFails(Asked):
    def post(self, store: Store, query: str, result: Any) -> NoReturn:
        raise ValueError("from post")


class GivesUp(Asked):
    max_retries = 9
    give_up_on = ConnectionError


class Late(Asked):
    """Raises only when its time is over."""

    timeout = 0.05

    def exec(self, query: str) -> NoReturn:
        while not self.cancelled:
            pass
        raise ConnectionError("too late")


class FallbackFails(Unlucky):
    def exec_fallback(self, query: str, exc: BaseException) -> NoReturn:
        raise LookupError("nothing to make do with") from exc


class NoFallback(Unlucky):
    def exec_fallback(self, query: str, exc: BaseException) -> Any:
        return Node.exec_fallback(self, query, exc)


@pytest.fixture(params=["no database", "database"])
def db_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "runs.db" if request.param == "database" else None


def run(node: Node, db_path: Path | None) -> Store:
    return Flow(node, db_path=db_path).run({"query": "ducks"}, run_id=RUN)


def told(path: Path) -> list[tuple[str, int | None, str | None, str | None]]:
    """What history says about the tries of the run."""
    return [
        (event["event"], event["attempt"], event["action"], event["error_msg"])
        for event in WorkflowDB(path).get_events(RUN)
        if event["event"] not in ("flow_start", "node_start")
    ]


def test_the_fallback_of_the_last_try_goes_to_post(db_path: Path | None) -> None:
    store = run(Unlucky(), db_path)

    assert store["result"] == {"query": "ducks", "error": "ConnectionError: no answer to ducks"}


def test_the_action_of_a_fallback_decides_where_the_run_goes(db_path: Path | None) -> None:
    start = Unlucky("start").then("made do", Unlucky("plan b")).then("done", Node("never"))

    store = run(start, db_path)

    assert store["result"]["query"] == "ducks"


def test_the_fallback_is_asked_once_after_the_last_try(db_path: Path | None) -> None:
    node = Asked()

    run(node, db_path)

    assert node.asked == ["ConnectionError"]


def test_the_fallback_is_asked_after_an_error_that_the_node_gives_up_on(db_path: Path | None) -> None:
    node = GivesUp()

    run(node, db_path)

    assert node.asked == ["ConnectionError"]


def test_the_fallback_is_not_asked_where_another_try_succeeds(db_path: Path | None) -> None:
    node = SecondTime()

    store = run(node, db_path)

    assert store["result"] == "an answer"
    assert node.tried
    assert node.asked == []


@pytest.mark.parametrize(("kind", "error"), [(PrepFails, "from prep"), (PostFails, "from post")])
def test_an_error_in_prep_or_post_has_no_fallback(
    kind: type[Asked], error: str, db_path: Path | None
) -> None:
    node = kind()

    with pytest.raises(ValueError, match=error):
        run(node, db_path)

    assert node.asked == []


def test_a_post_that_fails_after_the_fallback_fails_the_run(db_path: Path | None) -> None:
    node = PostAfterFallbackFails()

    with pytest.raises(ValueError, match="from post"):
        run(node, db_path)

    assert node.asked == ["ConnectionError"]


def test_a_timeout_has_no_fallback(db_path: Path | None) -> None:
    node = Late()

    with pytest.raises(StepTimeoutError):
        run(node, db_path)

    assert node.asked == []


def test_what_the_fallback_raises_fails_the_run(db_path: Path | None) -> None:
    with pytest.raises(LookupError, match="nothing to make do with") as caught:
        run(FallbackFails(), db_path)

    assert isinstance(caught.value.__cause__, ConnectionError)


def test_a_node_without_a_fallback_fails_with_the_error_of_its_exec(db_path: Path | None) -> None:
    with pytest.raises(ConnectionError, match="no answer to ducks"):
        run(NoFallback(), db_path)


def test_history_tells_of_each_try_that_came_before_a_fallback(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"

    run(Unlucky(), path)

    assert told(path) == [
        ("node_retry", 1, None, "no answer to ducks"),
        ("node_end", 2, "made do", None),
        ("flow_end", None, "completed", None),
    ]


def test_history_tells_what_the_fallback_raised(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"

    with pytest.raises(LookupError):
        run(FallbackFails(), path)

    assert told(path) == [
        ("node_retry", 1, None, "no answer to ducks"),
        ("node_error", 2, None, "nothing to make do with"),
        ("flow_end", None, "failed", None),
    ]
    row = WorkflowDB(path).get_run(RUN)
    assert row is not None
    assert (row["status"], row["error_type"]) == ("failed", "LookupError")
