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

from wordsight.cli.main import main
from wordsight.data.manifest import read_column, read_table
from wordsight.errors import DataError, SettingsError
from wordsight.text.aligned import read_aligned
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
        self.refusal = f"wrong key {KEY}"

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
            data = json.dumps({"error": {"message": self.server.refusal}}).encode()
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


def test_a_sentence_that_is_never_answered_rightly_is_left_out_alone(server: Server, tmp_path: Path) -> None:
    def stumbling(sentences: list[str]) -> Reply:
        return (200, "I cannot say.") if "bad one" in sentences else answer(sentences)

    server.script = [stumbling]
    sentences = [f"sentence {i}" for i in range(9)]
    sentences.insert(5, "bad one")
    aligner = endpoint(server, tmp_path, batch_size=8, attempts=3)
    found = aligner.align(sentences)
    assert [bool(statements) for statements in found] == [s != "bad one" for s in sentences]
    assert list(aligner.failed) == ["bad one"]
    assert aligner.failed["bad one"].startswith("a wrong answer: the answer must be one JSON object")
    # a batch of 8 thrice, its halves of 4, 2 and 1 with the sentence twice, the other halves and the second batch once
    assert len(server.asked) == 3 + 3 * 2 + 3 + 1
    again = endpoint(server, tmp_path, batch_size=8, attempts=3)
    assert again.align(sentences) == found, "only that one is asked again, and ends no run"
    assert (again.usage.cached, len(server.asked)) == (9, 13 + 3)
    server.script = [answer]
    assert again.align(sentences)[5]
    assert again.failed == {}


def test_a_model_that_is_always_wrong_is_given_up(server: Server, tmp_path: Path) -> None:
    server.script = [(200, "no")]
    with pytest.raises(DataError, match="got at last a wrong answer"):
        endpoint(server, tmp_path, batch_size=10, attempts=1).align([f"sentence {i}" for i in range(100)])
    assert len(server.asked) == 2 * 19, "two batches and all their parts"


def test_fields_that_a_server_does_not_accept_are_left_out(server: Server, tmp_path: Path) -> None:
    def strict(sentences: list[str]) -> Reply:
        return (400, None) if {"temperature", "response_format"} & server.asked[-1].keys() else answer(sentences)

    server.script = [strict]
    aligner = endpoint(server, tmp_path, batch_size=1)
    assert len(aligner.align(["a b", "c d"])) == 2
    assert aligner.left_out == {"temperature", "response_format"}
    assert len(server.asked) == 4, "found out once"
    assert (server.asked[0]["temperature"], server.asked[0]["response_format"]) == (0, {"type": "json_object"})
    server.script = [(400, None)]
    with pytest.raises(SettingsError, match="got status 400"):
        endpoint(server, tmp_path).align(["e f"])


def test_the_field_that_a_server_names_is_left_out_first(server: Server, tmp_path: Path) -> None:
    server.refusal = "unsupported value: 'temperature' does not support 0 with this model"
    server.script = [(400, None), answer]
    aligner = endpoint(server, tmp_path)
    assert aligner.align(["a b"])
    assert aligner.left_out == {"temperature"}
    assert "response_format" in server.asked[1]
    assert "temperature" not in server.asked[1]


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


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    rows = ["path,report,patient", 'a.png,"No effusion. Lungs are clear.",1', "b.png,No effusion.,2", 'c.png,"",3']
    (tmp_path / "reports.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "reports.csv"


def align(server: Server, table: Path, *more: str, name: str = "out.csv") -> int:
    words = ["--model", "m", "--endpoint", server.url, "--key-variable", "TEST_KEY", "--cache", str(table.parent / "c")]
    return main(["data", "align", str(table), *words, "--out", str(table.with_name(name)), *more])


def test_the_command_adds_a_column_of_prompts(server: Server, reports: Path, capsys: Any) -> None:
    server.script = [answer]
    assert align(server, reports, "--price-read", "10000", "--batch", "1") == 0
    captured = capsys.readouterr()
    assert "requests: 2, sentences from the cache: 0\ntokens read: 200, written: 20, cost: 2.0000\n" in captured.out
    assert f"train carzero --manifest {reports.with_name('out.csv')} --captions-column aligned" in captured.out
    assert "make sure that you may send them there" in captured.err
    assert KEY not in captured.out + captured.err
    cells = read_column(reports.with_name("out.csv"), "aligned")
    assert [read_aligned(cell) for cell in cells] == [["There is no pleural effusion"]] * 2 + [[]]
    assert list(read_table(reports.with_name("out.csv"))) == ["path", "report", "patient", "aligned"]
    # nothing is asked twice
    assert align(server, reports, "--column", "again", name="again.parquet") == 0
    assert "requests: 0, sentences from the cache: 2" in capsys.readouterr().out
    assert read_column(reports.with_name("again.parquet"), "again") == cells
    assert align(server, reports, "--limit", "1", name="short.csv") == 0
    assert len(read_column(reports.with_name("short.csv"), "aligned")) == 1


def test_an_interrupted_command_goes_on_and_says_what_was_spent(server: Server, reports: Path, capsys: Any) -> None:
    server.script = [answer, (500, None), answer]
    assert align(server, reports, "--batch", "1", "--attempts", "1") == 2
    captured = capsys.readouterr()
    assert "requests: 2, " in captured.out
    assert "got at last status 500. Run again to go on from here" in captured.err
    assert not reports.with_name("out.csv").exists()
    assert align(server, reports, "--batch", "1", "--attempts", "1") == 0
    assert "requests: 1, sentences from the cache: 1" in capsys.readouterr().out


def test_rules_read_what_the_model_cannot(server: Server, reports: Path, capsys: Any) -> None:
    def stumbling(sentences: list[str]) -> Reply:
        return (200, "?") if "Lungs are clear" in sentences else answer(sentences, GOOD | {"finding": "mass"})

    server.script = [stumbling]
    assert align(server, reports, "--attempts", "1") == 0
    assert "note: 1 sentences were never answered rightly; rules read these:" in capsys.readouterr().err
    first = read_aligned(read_column(reports.with_name("out.csv"), "aligned")[0])
    assert first[0] == "There is no mass"
    assert "There is no mass" not in first[1:]
    assert len(first) > 1


def test_tables_that_do_not_fit_are_refused(server: Server, reports: Path, tmp_path: Path, capsys: Any) -> None:
    server.script = [answer]
    (tmp_path / "bare.csv").write_text("path\na.png\n")
    (tmp_path / "empty.csv").write_text('path,report\na.png,""\n')
    for words, message in (
        (
            [str(tmp_path / "bare.csv"), "--out", str(tmp_path / "o.csv")],
            "expected a column `report`, got columns path",
        ),
        ([str(tmp_path / "empty.csv"), "--out", str(tmp_path / "o.csv")], "expected reports with sentences, got none"),
        ([str(reports), "--out", str(tmp_path / "o.txt")], "ends in .csv or .parquet, got '.txt'"),
        ([str(reports), "--out", str(tmp_path / "x" / "o.csv")], "expected a table in the folder of"),
        ([str(reports), "--out", str(tmp_path / "o.csv"), "--column", "patient"], "has a column 'patient' already"),
        ([str(reports), "--out", str(tmp_path / "o.csv"), "--limit", "0"], "limit: expected 1 row or more, got 0"),
    ):
        more = ["--model", "m", "--endpoint", server.url, "--cache", str(tmp_path / "c")]
        assert main(["data", "align", *words, *more]) == 2
        assert message in capsys.readouterr().err
    assert server.asked == []
