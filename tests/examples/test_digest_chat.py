"""Summaries by a chat endpoint: a server on this machine stands in for one."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from examples import digest
from examples.digest_chat import Chat, ChatError
from examples.digest_nodes import Summarise
from examples.digest_report import Source
from pocoflow import Store, codec

KEY = "sk-secret-0123456789"


class Endpoint(HTTPServer):
    """A chat endpoint on this machine that answers from a list and keeps what it was asked."""

    def __init__(self, replies: list[tuple[int, str]]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.replies = replies
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Endpoint)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
        status, text = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"{server.url}/elsewhere")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        """Keep the test output clean."""


def completion(text: str) -> tuple[int, str]:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """Yield an endpoint that the environment points to; a test fills in its replies."""
    server = Endpoint([completion("A fine summary. It has two sentences.")])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_MODEL", "test-model")
    monkeypatch.setattr(Summarise, "retry_delay", 0.0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(*paths: Path, words: int = 600) -> Store:
    store = digest.initial_store(paths, target_words=words, output=paths[0].parent / "digest.md")
    return digest.build_flow().run(store)


def by_name(store: Store) -> dict[str, Source]:
    return {Path(source["title"]).name: source for source in store["sources"]}


def test_a_model_writes_the_summaries_where_a_key_is_set(folder: Path, endpoint: Endpoint) -> None:
    store = run(folder / "a.md", folder / "d.md", words=100)

    asked = endpoint.asked[0]
    assert len(endpoint.asked) == 1  # the small document goes the short way
    assert (asked["path"], asked["model"], asked["key"]) == (
        "/v1/chat/completions",
        "test-model",
        f"Bearer {KEY}",
    )
    assert "English" in asked["messages"][0]["content"]
    assert "A checkpoint is the data of a run" in asked["messages"][1]["content"]
    assert [pick["text"] for pick in by_name(store)["a.md"]["picks"]] == [
        "A fine summary.",
        "It has two sentences.",
    ]
    assert "Written by the model test-model" in store["report"]


def test_a_call_that_failed_is_tried_again(folder: Path, endpoint: Endpoint) -> None:
    endpoint.replies[:0] = [(500, "overloaded"), (200, "no JSON")]

    store = run(folder / "a.md")

    assert len(endpoint.asked) == 3
    assert by_name(store)["a.md"]["picks"][0]["text"] == "A fine summary."


def test_after_the_last_try_the_run_fails_and_the_key_is_not_shown(folder: Path, endpoint: Endpoint) -> None:
    endpoint.replies = [(401, f"Incorrect API key provided: {KEY}")]

    with pytest.raises(
        ChatError, match=r"chat endpoint 127\.0\.0\.1:\d+ answered 401: Incorrect API key"
    ) as caught:
        run(folder / "a.md")

    assert len(endpoint.asked) == Summarise.max_retries == 3
    assert KEY not in str(caught.value)
    assert not (folder.parent / "digest.md").exists()


def test_the_store_never_holds_the_key(folder: Path, endpoint: Endpoint) -> None:
    store = run(folder / "a.md")

    assert KEY not in codec.dumps(store.as_dict())


@pytest.mark.parametrize("reply", [(200, '{"choices": []}'), (200, "[1]"), completion(" "), (307, "go on")])
def test_an_answer_that_is_no_message_is_an_error(endpoint: Endpoint, reply: tuple[int, str]) -> None:
    endpoint.replies = [reply]
    chat = Chat.from_env()
    assert chat is not None

    with pytest.raises(ChatError):
        chat.ask("system", "user")

    assert len(endpoint.asked) == 1  # a redirect is not followed: it would take the key along


def test_an_endpoint_that_is_gone_is_an_error_without_the_key() -> None:
    chat = Chat(base_url="http://127.0.0.1:1/v1", model="m", key=KEY, timeout_s=5)

    with pytest.raises(ChatError, match=r"chat endpoint 127\.0\.0\.1:1 cannot be reached") as caught:
        chat.ask("system", "user")

    assert KEY not in str(caught.value) + repr(chat)


@pytest.mark.parametrize(
    "environ",
    [
        {"OPENAI_API_KEY": "sk-a\nb"},
        {"OPENAI_API_KEY": "sk-ä"},
        {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "file:///etc/passwd"},
        {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "localhost:1234"},
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(environ: dict[str, str]) -> None:
    with pytest.raises(ChatError, match=list(environ)[-1]) as caught:
        Chat.from_env(environ)

    assert environ["OPENAI_API_KEY"] not in str(caught.value)


def test_the_key_is_asked_for_on_the_worker_that_lacks_it(folder: Path, endpoint: Endpoint) -> None:
    flow = digest.build_flow().on("node_end", lambda *_: os.environ.pop("OPENAI_API_KEY", None))

    with pytest.raises(ChatError, match="set it for every worker"):
        flow.run(digest.initial_store([folder / "a.md"], output=folder.parent / "digest.md"))
