"""Alignment by an endpoint, against a local server that answers well, badly, slowly or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from wordsight.errors import DataError, SettingsError
from wordsight.text.alignment import Statement, Status
from wordsight.text.endpoint import Endpoint, EndpointSettings

KEY = "sk-secret-0123456789"
GOOD = {"finding": "pleural effusion", "status": "absent", "place": None}
Reply = tuple[int, Any]


class Server(ThreadingHTTPServer):
    """Answers in the order of `script`, then always with the last entry; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Reply | Callable[[list[str]], Reply]] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.retry_after: str | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that no longer waits is no error here."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    """Chat completions only."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers.get("Authorization", ""))
        step = self.server.script[min(len(self.server.asked), len(self.server.script)) - 1]
        numbered = next(m["content"] for m in body["messages"] if m["role"] == "user")
        status, content = step([e["sentence"] for e in json.loads(numbered)]) if callable(step) else step
        if status == 200:
            text = content if isinstance(content, str) else json.dumps(content)
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            data = json.dumps(answer | {"usage": usage}).encode()
        else:
            data = json.dumps({"error": {"message": f"wrong key {KEY}"}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.server.retry_after is not None:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


def answer(sentences: list[str], finding: dict[str, Any] = GOOD) -> Reply:
    """The same finding for every sentence."""
    return 200, {"sentences": [{"index": i, "findings": [finding]} for i in range(len(sentences))]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TEST_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def endpoint(server: Server, folder: Path, waits: list[float] | None = None, **options: Any) -> Endpoint:
    values: dict[str, Any] = {"model": "m", "base_url": server.url, "key_variable": "TEST_KEY", "wait": 1.0}
    log = [] if waits is None else waits
    return Endpoint(EndpointSettings(**values | options), folder / "cache", sleep=log.append)


def test_good_answers_are_read_cached_and_priced(server: Server, tmp_path: Path) -> None:
    server.script = [answer]
    first = endpoint(server, tmp_path, batch_size=2, price_read=10.0, price_written=100.0)
    statement = (Statement("pleural effusion", Status.ABSENT),)
    assert first.align(["a b", "c d", "a b", "e f"]) == [statement] * 4
    assert len(server.asked) == 2, "three different sentences in batches of two"
    assert (first.usage.requests, first.usage.tokens_read, first.usage.tokens_written) == (2, 200, 20)
    assert first.usage.cost(first.settings) == pytest.approx((200 * 10 + 20 * 100) / 1e6)
    again = endpoint(server, tmp_path)
    assert again.align(["c d", "e f"]) == [statement] * 2
    assert (len(server.asked), again.usage.cached, again.usage.requests) == (2, 2, 0)
    assert endpoint(server, tmp_path, model="other").align(["c d"]) == [statement]
    assert len(server.asked) == 3, "another model is asked anew"


def test_the_key_goes_to_the_server_and_nowhere_else(server: Server, tmp_path: Path, caplog: Any, capfd: Any) -> None:
    server.script = [answer, (401, None)]
    aligner = endpoint(server, tmp_path)
    with caplog.at_level("DEBUG", logger="wordsight"):
        aligner.align(["a b"])
        with pytest.raises(
            SettingsError, match=r"got status 401\. Check the model 'm', base_url and the key in TEST_KEY"
        ) as e:
            aligner.align(["c d"])
    assert server.keys == [f"Bearer {KEY}"] * 2
    written = "".join(p.read_text(encoding="utf-8") + p.name for p in tmp_path.rglob("*.json"))
    assert all(KEY not in text for text in (str(e.value), repr(aligner), written, caplog.text, *capfd.readouterr()))


@pytest.mark.parametrize(
    "bad",
    [
        "no JSON",
        "[]",
        {"sentences": []},
        {"sentences": [{"index": 0, "findings": []}], "note": "surplus"},
        {"sentences": [{"index": 1, "findings": []}]},
        {"sentences": [{"index": 0, "findings": {}}]},
        {"sentences": [{"index": 0, "findings": [], "why": ""}]},
        {"sentences": [{"index": 0, "findings": [GOOD, GOOD]}]},
        *(
            {"sentences": [{"index": 0, "findings": [GOOD | change]}]}
            for change in (
                {"finding": "dragon"},
                {"finding": 5},
                {"status": "maybe"},
                {"place": ""},
                {"place": "x" * 81},
            )
        ),
        {"sentences": [{"index": 0, "findings": [GOOD | {"extra": 1}]}]},
        {"sentences": [{"index": 0, "findings": [{"finding": "mass"}]}]},
        "",
    ],
)
def test_malformed_answers_are_asked_again_with_the_reason(server: Server, tmp_path: Path, bad: Any) -> None:
    server.script = [(200, bad), answer]
    waits: list[float] = []
    assert endpoint(server, tmp_path, waits).align(["a b"])[0][0].finding == "pleural effusion"
    assert len(server.asked) == 2
    assert waits == [1.0]
    if bad:
        assert server.asked[1]["messages"][-1]["content"].startswith("Wrong: ")


def test_busy_and_broken_servers_are_asked_again_ever_later(server: Server, tmp_path: Path) -> None:
    server.script = [(429, None), (500, None), (503, None), answer]
    waits: list[float] = []
    endpoint(server, tmp_path, waits, longest_wait=3.0).align(["a b"])
    assert waits == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("asked", "wait"), [("7", 7.0), ("9999", 60.0), ("soon", 1.0), ("nan", 1.0), ("-5", 1.0)])
def test_a_server_may_ask_for_a_longer_wait(server: Server, tmp_path: Path, asked: str, wait: float) -> None:
    server.script, server.retry_after = [(429, None), answer], asked
    waits: list[float] = []
    endpoint(server, tmp_path, waits).align(["a b"])
    assert waits == [wait]


def test_a_server_that_is_too_slow_is_asked_again(server: Server, tmp_path: Path) -> None:
    def slow(sentences: list[str]) -> Reply:
        time.sleep(0.6)
        return answer(sentences)

    server.script = [slow, answer]
    aligner = endpoint(server, tmp_path, timeout=0.3)
    assert len(aligner.align(["a b"])) == 1
    assert aligner.usage.requests == 2


def test_patience_ends_and_what_was_answered_stays(server: Server, tmp_path: Path) -> None:
    server.script = [answer, (500, None), (500, None), (500, None), answer]
    with pytest.raises(DataError, match="within 3 attempts, got at last status 500"):
        endpoint(server, tmp_path, batch_size=1, attempts=3).align(["a b", "c d", "e f"])
    assert len(server.asked) == 4
    endpoint(server, tmp_path, batch_size=1).align(["a b", "c d", "e f"])
    assert len(server.asked) == 6, "the first sentence was kept"


def test_wrong_answers_end_with_the_reason(server: Server, tmp_path: Path) -> None:
    server.script = [(200, {"sentences": [{"index": 0, "findings": [GOOD | {"finding": "dragon"}]}]})]
    with pytest.raises(DataError, match="a wrong answer: 'dragon' is not in the list"):
        endpoint(server, tmp_path, attempts=2).align(["a b"])
    assert not list(tmp_path.rglob("*.json"))


def test_damaged_cache_files_are_asked_again(server: Server, tmp_path: Path) -> None:
    server.script = [answer]
    endpoint(server, tmp_path).align(["a b"])
    (stored,) = tmp_path.rglob("*.json")
    for damage in (b"", b"[{}]", b"\xff", stored.read_bytes()[:-10]):
        stored.write_bytes(damage)
        assert endpoint(server, tmp_path).align(["a b"])[0][0] == Statement("pleural effusion", Status.ABSENT)
    assert len(server.asked) == 5


def test_nobody_answers(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="APIConnectionError"):
        endpoint(server, tmp_path, base_url="http://127.0.0.1:9/v1", attempts=2).align(["a b"])


def test_a_key_is_needed_for_the_default_endpoint_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(SettingsError, match="environment variable TEST_KEY"):
        endpoint(server, tmp_path, base_url=None).align(["a b"])
    server.script = [answer]
    assert endpoint(server, tmp_path).align(["a b"])


@pytest.mark.parametrize(
    "options",
    [{"model": ""}, {"attempts": 0}, {"batch_size": 0}, {"wait": -1.0}, {"vocabulary": ()}, {"timeout": float("nan")}],
)
def test_impossible_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="expected"):
        EndpointSettings(**{"model": "m"} | options)
