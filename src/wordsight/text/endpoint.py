"""Prompt alignment by a language model behind any endpoint that speaks OpenAI's interface.

Sentences go out in batches and come back as JSON, which is checked by hand: every sentence answered once, findings of
the given vocabulary only, nothing besides. What fails the check is asked again with the reason, then in halves, and a
sentence that fails alone is left out and named. Answers are kept on disk by the hash of what was asked, so an
interrupted run goes on where it stopped. The key comes from the environment and is written nowhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wordsight.errors import DataError, SettingsError
from wordsight.files import write_json
from wordsight.progress import progress
from wordsight.text.alignment import Statement, Status
from wordsight.text.chest_terms import FINDINGS

VOCABULARY = (*FINDINGS, "acute disease")
"""Findings that the rules know; the default vocabulary of the model too."""

MAX_PLACE = 80
EMPTY = "an empty answer."
HALVED_ATTEMPTS = 2
"""Wrong answers that half a batch may get: it was asked as a whole before."""
FAILED_IN_A_ROW = 20
"""Sentences without a single right answer after which a model is given up."""
RETRIED = frozenset((408, 409, 429))
UNACCEPTED = frozenset((400, 422))
"""What servers answer to fields that they do not know; OPTIONAL ones are then left out, one after the other."""
OPTIONAL: dict[str, Any] = {"response_format": {"type": "json_object"}, "temperature": 0}
INSTRUCTIONS = """You read sentences of chest x-ray reports. For every sentence list the findings it speaks of.
Answer with one JSON object and nothing else:
{"sentences": [{"index": 0, "findings": [{"finding": "...", "status": "present", "place": null}]}]}
- one entry per sentence, in order, with its index; "findings" is [] where a sentence speaks of none
- "finding": one of the names below, word for word, at most once per sentence
- "status": "present", "uncertain" (may, possible, cannot be excluded) or "absent" (denied, resolved, or the structure
  is normal: "heart size is normal" means cardiomegaly is absent)
- "place": the anatomical place in the sentence's words, or null
Findings: """


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Which endpoint is asked, and how patiently.

    base_url: None for OpenAI's own. key_variable: environment variable with the key; an endpoint with its own
    base_url may do without. prices: per million tokens read and written, in any currency. wait, longest_wait: seconds
    before the second attempt, doubled for each further one up to the longest. attempts: per batch, failures of any
    kind counted.
    """

    model: str
    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    vocabulary: tuple[str, ...] = VOCABULARY
    batch_size: int = 20
    attempts: int = 6
    wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 120.0
    price_read: float = 0.0
    price_written: float = 0.0

    def __post_init__(self) -> None:
        if not self.model or not self.vocabulary:
            raise SettingsError("expected a model and a vocabulary, got an empty one. Name the endpoint's model.")
        for name in ("batch_size", "attempts"):
            if getattr(self, name) < 1:
                raise SettingsError(f"expected {name} of at least 1, got {getattr(self, name)}.")
        for name in ("wait", "longest_wait", "timeout", "price_read", "price_written"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"expected {name} of at least 0, got {getattr(self, name)}.")


@dataclass(slots=True)
class Usage:
    """What a run has cost so far."""

    requests: int = 0
    tokens_read: int = 0
    tokens_written: int = 0
    cached: int = 0

    def cost(self, settings: EndpointSettings) -> float:
        """Price of the tokens, in the currency of the settings' prices."""
        return (self.tokens_read * settings.price_read + self.tokens_written * settings.price_written) / 1e6


class _Rejected(Exception):
    """An answer that fails the check; its text is sent back to the model."""


class _Unanswered(Exception):
    """A batch that the model answered wrongly until patience ended."""


def _exact(value: Any, keys: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        got = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise _Rejected(f"{what} must be an object with exactly {', '.join(sorted(keys))}; got {got}.")
    return value


def _statement(value: Any, vocabulary: Sequence[str], sentence: str) -> Statement:
    entry = _exact(value, {"finding", "status", "place"}, "a finding")
    finding, status, place = entry["finding"], entry["status"], entry["place"]
    if finding not in vocabulary:
        raise _Rejected(f"{finding!r} is not in the list of findings.")
    if status not in list(Status):
        raise _Rejected(f"status must be present, uncertain or absent; got {status!r}.")
    if place is not None and (not isinstance(place, str) or not place.strip() or len(place) > MAX_PLACE):
        raise _Rejected(f"place must be null or a few words of the sentence {sentence!r}; got {place!r}.")
    return Statement(finding, Status(status), None if place is None else " ".join(place.split()))


def _statements(values: Any, vocabulary: Sequence[str], sentence: str) -> tuple[Statement, ...]:
    if not isinstance(values, list):
        raise _Rejected(f"findings must be a list; got {type(values).__name__}.")
    found = tuple(_statement(value, vocabulary, sentence) for value in values)
    if len({s.finding for s in found}) != len(found):
        raise _Rejected(f"each finding may occur once per sentence; got several in {sentence!r}.")
    return found


def _parsed(text: str, sentences: Sequence[str], vocabulary: Sequence[str]) -> list[tuple[Statement, ...]]:
    """The checked answer for a batch."""
    try:
        answer = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _Rejected(f"the answer must be one JSON object; {error}.") from error
    entries = _exact(answer, {"sentences"}, "the answer")["sentences"]
    if not isinstance(entries, list) or len(entries) != len(sentences):
        raise _Rejected(f"sentences must be a list of {len(sentences)} entries.")
    found = []
    for index, (entry, sentence) in enumerate(zip(entries, sentences, strict=True)):
        if _exact(entry, {"index", "findings"}, "an entry of sentences")["index"] != index:
            raise _Rejected(f"entry {index} must have the index {index}; got {entry['index']!r}.")
        found.append(_statements(entry["findings"], vocabulary, sentence))
    return found


@dataclass(frozen=True, slots=True)
class _Cache:
    """Answers on disk, one small file per sentence, named by the hash of all that decides the answer."""

    folder: Path
    settings: EndpointSettings

    def _path(self, sentence: str) -> Path:
        asked = [INSTRUCTIONS, self.settings.model, self.settings.base_url, self.settings.vocabulary, sentence]
        name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.json"

    def read(self, sentence: str) -> tuple[Statement, ...] | None:
        """The stored answer; None where there is none or the file does not pass the check."""
        try:
            values = json.loads(self._path(sentence).read_text(encoding="utf-8"))
            return _statements(values, self.settings.vocabulary, sentence)
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, _Rejected):
            return None

    def write(self, sentence: str, statements: Sequence[Statement]) -> None:
        """Store an answer, whole or not at all."""
        values = [{"finding": s.finding, "status": s.status.value, "place": s.place} for s in statements]
        write_json(self._path(sentence), values)


def _client(settings: EndpointSettings) -> Any:
    """The openai client; its own retries are off, since ours are counted and bounded."""
    try:
        import openai
    except ImportError as error:
        raise SettingsError("aligning by an endpoint needs openai. Run: pip install 'wordsight[llm]'") from error
    key = os.environ.get(settings.key_variable)
    if not key and settings.base_url is None:
        raise SettingsError(f"expected a key in the environment variable {settings.key_variable}, got none. Set it.")
    return openai.OpenAI(
        api_key=key or "none", base_url=settings.base_url, timeout=settings.timeout, max_retries=0, organization=None
    )


def _wait_asked(error: Any) -> float:
    """Seconds that a refusal's Retry-After asks for; 0 where it says nothing readable."""
    try:
        seconds = float(error.response.headers.get("retry-after", 0))
    except (AttributeError, TypeError, ValueError):
        return 0.0
    return seconds if 0 <= seconds < float("inf") else 0.0


def _blamed(message: str, extra: Collection[str]) -> str:
    """The field that a refusal names, else the first."""
    return next((name for name in extra if name in message), next(iter(extra)))


@dataclass(slots=True)
class Endpoint:
    """Aligns sentences by an endpoint. usage counts what was spent; sleep is how it waits.

    failed: sentence -> why, of those that the model never answered rightly, alone neither; `align` gives no statement
    for them, and asks again when it is called again. left_out: fields of OPTIONAL that the server does not accept.
    `align` raises SettingsError without the package, key or right to use the endpoint, and DataError where the
    endpoint keeps failing, or answers FAILED_IN_A_ROW sentences or all of them wrongly; what was answered is in the
    cache.
    """

    settings: EndpointSettings
    cache: str | Path
    usage: Usage = field(default_factory=Usage)
    sleep: Callable[[float], None] = time.sleep
    failed: dict[str, str] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)

    def align(self, sentences: Sequence[str]) -> list[tuple[Statement, ...]]:
        """Statements per sentence, in order; equal sentences are asked once, known ones not at all."""
        store = _Cache(Path(self.cache), self.settings)
        known: dict[str, tuple[Statement, ...]] = {}
        missing = []
        for sentence in dict.fromkeys(sentences):
            stored = store.read(sentence)
            if stored is None:
                missing.append(sentence)
            else:
                known[sentence] = stored
        self.usage.cached += len(known)
        if missing:
            for sentence, statements in self._ask_all(missing):
                store.write(sentence, statements)
                known[sentence] = statements
                self.failed.pop(sentence, None)
        if missing and not known:
            raise self._hopeless(missing[0])
        return [known.get(sentence, ()) for sentence in sentences]

    def _ask_all(self, sentences: Sequence[str]) -> Iterator[tuple[str, tuple[Statement, ...]]]:
        client, size = _client(self.settings), self.settings.batch_size
        with progress("aligning reports", len(sentences), "sentences") as bar:
            row = 0
            for start in range(0, len(sentences), size):
                batch = sentences[start : start + size]
                answered = list(self._answered(client, batch, self.settings.attempts))
                yield from answered
                row = 0 if answered else row + len(batch)
                if row >= FAILED_IN_A_ROW:
                    raise self._hopeless(batch[0])
                bar.note(f"cost {self.usage.cost(self.settings):.4f}")
                bar.advance(len(batch))

    def _hopeless(self, sentence: str) -> DataError:
        return DataError(
            f"expected a right answer within {self.settings.attempts} attempts, got at last {self.failed[sentence]} "
            "Run again to go on from here, or choose another model."
        )

    def _answered(self, client: Any, batch: Sequence[str], most: int) -> Iterator[tuple[str, tuple[Statement, ...]]]:
        """The answers of a batch; after `most` wrong ones it is halved, until single sentences are to blame."""
        try:
            yield from zip(batch, self._ask(client, batch, most), strict=True)
        except _Unanswered as error:
            if len(batch) == 1:
                self.failed[batch[0]] = str(error)
                return
            half = len(batch) // 2
            yield from self._answered(client, batch[:half], min(most, HALVED_ATTEMPTS))
            yield from self._answered(client, batch[half:], min(most, HALVED_ATTEMPTS))

    def _ask(self, client: Any, batch: Sequence[str], most: int) -> list[tuple[Statement, ...]]:
        """One batch, asked again while the endpoint is busy, broken or wrong."""
        numbered = json.dumps([{"index": i, "sentence": s} for i, s in enumerate(batch)], ensure_ascii=False)
        system = {"role": "system", "content": INSTRUCTIONS + "; ".join(self.settings.vocabulary)}
        question = [system, {"role": "user", "content": numbered}]
        messages, reason, asked, wrong = question, "", 0.0, 0
        for attempt in range(self.settings.attempts):
            if attempt:
                pause = max(asked, self.settings.wait * 2 ** (attempt - 1))
                self.sleep(min(pause, self.settings.longest_wait))
            answer, reason, asked = self._request(client, messages)
            if answer is not None:
                try:
                    return _parsed(answer, batch, self.settings.vocabulary)
                except _Rejected as error:
                    reason = f"a wrong answer: {error}"
                    said = {"role": "assistant", "content": answer}
                    messages = [*question, said, {"role": "user", "content": f"Wrong: {error} Answer again in full."}]
            wrong += answer is not None or reason == EMPTY
            if wrong == most:
                break
        if wrong:
            raise _Unanswered(reason)
        raise DataError(
            f"expected an answer within {self.settings.attempts} attempts, got at last {reason} "
            "Run again to go on from here, or choose another endpoint."
        )

    def _request(self, client: Any, messages: list[dict[str, str]]) -> tuple[str | None, str, float]:
        """(answer or None, why not, seconds the endpoint asks to wait)."""
        import openai

        self.usage.requests += 1
        extra = {name: value for name, value in OPTIONAL.items() if name not in self.left_out}
        try:
            reply = client.chat.completions.create(model=self.settings.model, messages=messages, **extra)
        except openai.APIStatusError as error:
            if error.status_code in RETRIED or error.status_code >= 500:
                return None, f"status {error.status_code}.", _wait_asked(error)
            if error.status_code in UNACCEPTED and extra:
                self.left_out.add(_blamed(str(error), extra))
                return self._request(client, messages)
            # the body may repeat parts of the key, so it is not shown
            raise SettingsError(
                f"expected the endpoint to accept the request, got status {error.status_code}. Check the model "
                f"{self.settings.model!r}, base_url and the key in {self.settings.key_variable}."
            ) from None
        except (openai.APIConnectionError, openai.APIResponseValidationError, json.JSONDecodeError) as error:
            return None, f"{type(error).__name__}.", 0.0
        if (used := getattr(reply, "usage", None)) is not None:
            self.usage.tokens_read += used.prompt_tokens or 0
            self.usage.tokens_written += used.completion_tokens or 0
        choices = getattr(reply, "choices", None)
        content = choices[0].message.content if choices else None
        return (content, "", 0.0) if content else (None, EMPTY, 0.0)
