"""Prompt alignment by rules: a report's sentence -> the findings it states, denies or doubts, as prompts.

"Small left effusion, no pneumothorax" -> "There is pleural effusion of left side", "There is no pneumothorax": the
wording of the prompts that are asked at test time (Lai et al., CARZero, CVPR 2024, where a language model does this;
here rules in the manner of NegEx, Chapman et al., J Biomed Inform 2001). Reads English chest x-ray reports.

A sentence is read once from left to right. Cues open and close the scope of negation and doubt; findings met on the
way take the status of the scope. Structures ("heart size", "lungs") and their states ("normal", "enlarged") meet
likewise. The words are in `chest_terms` and `cues`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from wordsight.text.chest_terms import ABNORMAL, GENERAL, NORMAL, NORMAL_STATES, PLACELESS, SIDED
from wordsight.text.lexicon import Term, terms_of, tokens_of
from wordsight.text.places import other_side, place_of, sides_of
from wordsight.text.sentences import report_sentences


class Status(StrEnum):
    """What a sentence says of a finding."""

    PRESENT = "present"
    UNCERTAIN = "uncertain"
    ABSENT = "absent"


_START = {Status.PRESENT: "There is", Status.UNCERTAIN: "There may be", Status.ABSENT: "There is no"}
_TRANSPARENT = frozenset(("state", "subject", "assertion"))  # kinds of terms between a finding and its place
_DOUBTFUL = frozenset(("possible", "possibly", "probable", "probably", "likely"))
_STRENGTH = {Status.PRESENT: 2, Status.UNCERTAIN: 1, Status.ABSENT: 0}


@dataclass(frozen=True, slots=True)
class Statement:
    """What one sentence says of one finding; `place` where it names one."""

    finding: str
    status: Status
    place: str | None = None

    def sentence(self) -> str:
        """The prompt: "There is | There may be | There is no <finding>[ of <place>]"."""
        return f"{_START[self.status]} {self.finding}" + (f" of {self.place}" if self.place else "")


@dataclass(slots=True)
class _Mention:
    """A statement in the making.

    start, end: the tokens that name it. group: the mentions that a cue behind them speaks of. implied: by a state.
    """

    finding: str
    status: Status
    start: int
    end: int
    group: int
    implied: bool


@dataclass(slots=True)
class _Reader:
    """What is open while a sentence is read.

    or_follows: per term, whether an "or" comes before the scope ends, so a list goes on. joined: "comma" or "and"
    where one came last, so a new clause may start. settled: the waiting subjects are "stable", and wait no longer
    than to a comma. topic: the structure named last. subjects wait for a state behind them; `state` waits for
    subjects behind it, and `loan` is how many mentions it gave to the last subject, until a verb shows that the
    subject has a state of its own.
    """

    terms: Sequence[Term]
    or_follows: Sequence[bool]
    negated: bool = False
    doubt: bool = False
    hedge: bool = False
    either: bool = False
    hypothetical: bool = False
    joined: str = ""
    settled: bool = False
    topic: Term | None = None
    group: int = 0
    subjects: list[Term] = field(default_factory=list)
    state: tuple[str, Status] | None = None
    loan: tuple[Term, int] | None = None
    mentions: list[_Mention] = field(default_factory=list)

    def _status(self) -> Status:
        if self.negated:
            return Status.ABSENT
        return Status.UNCERTAIN if self.doubt or self.hedge or self.either else Status.PRESENT

    def _add(self, finding: str, status: Status, term: Term) -> None:
        self.mentions.append(_Mention(finding, status, term.start, term.end, self.group, term.kind == "subject"))

    def _restate(self, status: Status) -> bool:
        """Give the current group another status; False where it has no mention."""
        group = [m for m in self.mentions if m.group == self.group]
        for mention in group:
            mention.status = status
        return bool(group)

    def on_end(self, index: int, term: Term) -> None:
        self.negated = self.doubt = self.hedge = self.either = self.hypothetical = False
        self.joined = ""
        self.group += 1
        self.subjects, self.state, self.loan, self.topic = [], None, None, None

    def on_otherwise(self, index: int, term: Term) -> None:
        subjects, topic = self.subjects, self.topic
        self.on_end(index, term)
        self.subjects, self.topic = subjects, topic

    def on_comma(self, index: int, term: Term) -> None:
        self.joined = "comma"
        if self.settled:
            self.subjects, self.settled = [], False
        self.hypothetical = self.either = False
        if not self.or_follows[index]:
            self.hedge = False
            self.group += not self.negated

    def on_and(self, index: int, term: Term) -> None:
        self.joined = "and"
        self.group += bool(self.mentions) and self.mentions[-1].implied

    def on_or(self, index: int, term: Term) -> None:
        self.joined = ""
        if not self.negated and self.mentions and self.mentions[-1].group == self.group:
            if self.mentions[-1].status is Status.PRESENT:
                self.mentions[-1].status = Status.UNCERTAIN
            self.either = True

    def on_with(self, index: int, term: Term) -> None:
        self.negated = self.hedge = False
        self.state = None
        self.group += 1

    def on_negation(self, index: int, term: Term) -> None:
        self.negated, self.joined, self.hedge, self.either = True, "", False, False
        self.state = None
        self.group += 1

    def on_unchanged(self, index: int, term: Term) -> None:
        self.negated, self.subjects, self.state = False, [], None
        self.group += 1

    def on_hypothetical(self, index: int, term: Term) -> None:
        self.hypothetical = not self.negated

    def _open_doubt(self) -> None:
        if self.joined:
            self.negated = False
        self.group += 1

    def on_doubt(self, index: int, term: Term) -> None:
        self._open_doubt()
        self.doubt = True

    def on_hedge(self, index: int, term: Term) -> None:
        self._open_doubt()
        self.hedge = True

    def on_denied(self, index: int, term: Term) -> None:
        if not self._restate(Status.ABSENT):
            self.negated = True

    def on_doubted(self, index: int, term: Term) -> None:
        if not self._restate(Status.UNCERTAIN):
            self.doubt = True

    def on_assertion(self, index: int, term: Term) -> None:
        if self.joined and not self.or_follows[index]:
            self.negated = False
            self.doubt = self.doubt and self.joined == "and"
            self.group += 1

    def on_finding(self, index: int, term: Term) -> None:
        if not self.hypothetical:
            bare = term.value == ("acute disease",) and term.end - term.start == 2  # "acute abnormality" of what?
            about = self.topic.value[0] if self.topic is not None else ""
            for name in term.value:
                self._add(GENERAL.get(about, name) if bare else name, self._status(), term)
        self.joined, self.either = "", False
        self.subjects, self.state, self.loan = [], None, None

    def on_denial(self, index: int, term: Term) -> None:
        if self.negated:
            self.on_finding(index, term)

    def on_well(self, index: int, term: Term) -> None:
        if self._status() is Status.PRESENT:
            self._add("acute disease", Status.ABSENT, term)
            self.loan = None

    def on_ignored(self, index: int, term: Term) -> None:
        self.joined = ""

    def _apply(self, state: str, status: Status, subject: Term) -> int:
        """Mention what a structure in a state says; the number of mentions."""
        name = subject.value[0]
        if name in NORMAL_STATES.get(state, ()):
            if status is not Status.PRESENT:
                return 0
            for finding in NORMAL[name]:
                self._add(finding, Status.ABSENT, subject)
            return len(NORMAL[name])
        if (name, state) not in ABNORMAL:
            return 0
        doubtful = state == "top normal" and status is Status.PRESENT
        self._add(ABNORMAL[name, state], Status.UNCERTAIN if doubtful else status, subject)
        return 1

    def on_state(self, index: int, term: Term) -> None:
        name = term.value[0]
        if name == "same":
            self.on_assertion(index, term)
            self.settled = bool(self.subjects)
            self.state = None if self.subjects else (name, Status.PRESENT)
            return
        status = self._status()
        before_subject = [t.kind for t in self.terms[index + 1 : index + 2]] == ["subject"]
        if name == "clear" and not self.subjects and self.topic is not None and not before_subject:
            self.subjects = [self.topic]  # "lungs are hyperinflated but clear"
        given = [self._apply(name, status, subject) for subject in self.subjects]
        self.state = None if any(given) else (name, status)
        self.subjects = []
        self.hedge = self.hedge or (name == "top normal" and not any(given))

    def on_subject(self, index: int, term: Term) -> None:
        if self.joined:
            self.negated = self.negated and self.or_follows[index]
        self.topic = term
        given = 0 if self.state is None else self._apply(*self.state, term)
        self.loan = (term, given) if given and self.joined else None
        if given and self.state is not None and self.state[0] == "top normal":
            self.hedge = False
        if not given and (self.state is None or self.state[0] != "same"):
            self.subjects.append(term)
        self.joined = ""

    def on_verb(self, index: int, term: Term) -> None:
        if self.loan is not None:
            subject, given = self.loan
            del self.mentions[-given:]
            self.subjects, self.state, self.loan = [subject], None, None


_HANDLERS: dict[str, Callable[[_Reader, int, Term], None]] = {
    name.removeprefix("on_"): method for name, method in vars(_Reader).items() if name.startswith("on_")
}


def _or_follows(terms: Sequence[Term]) -> list[bool]:
    """Per term, whether an "or" comes behind it before the scope ends."""
    found, ahead = [], False
    for term in reversed(terms):
        found.append(ahead)
        ahead = term.kind == "or" or (ahead and term.kind != "end")
    return found[::-1]


def _place(tokens: Sequence[str], terms: Sequence[Term], mention: _Mention) -> str | None:
    if mention.finding in PLACELESS or (mention.implied and mention.finding not in SIDED):
        return None
    before = [t for t in terms if t.kind not in _TRANSPARENT and t.end <= mention.start]
    floor = max((t.end for t in before), default=0)
    previous = max((t.end for t in before if t.kind not in ("and", "or")), default=0)
    ceiling = _next_finding(terms, mention, len(tokens))
    place = place_of(tokens, mention.start, mention.end, floor, ceiling, previous)
    if place is None or mention.finding not in SIDED:
        return place
    side = place.split()[0]
    return {"both": "both sides", "left": "left side", "right": "right side"}.get(side)


def _next_finding(terms: Sequence[Term], mention: _Mention, end: int) -> int:
    """Where the finding after a mention begins, else the sentence's end."""
    return next((t.start for t in terms if t.kind == "finding" and t.start >= mention.end), end)


def _statements(tokens: Sequence[str], terms: Sequence[Term], mention: _Mention) -> list[Statement]:
    """What a mention says, and what the sentence goes on to say of the other side without naming the finding again."""
    found = [Statement(mention.finding, mention.status, _place(tokens, terms, mention))]
    sides = sides_of(found[0].place)
    if len(sides) != 1:
        return found
    (side,) = sides
    other = other_side(tokens, mention.end, side, _next_finding(terms, mention, len(tokens)))
    if other is not None:
        denied, doubted = other[1] & {"none", "no", "not"}, other[1] & _DOUBTFUL
        status = Status.ABSENT if denied else Status.UNCERTAIN if doubted else Status.PRESENT
        found.append(Statement(mention.finding, status, other[0]))
    return found


def _settled(found: Sequence[Statement]) -> list[Statement]:
    """Of what is said of one finding the strongest, the first among equals, and what is said of the other side."""
    kept: list[Statement] = []
    for statement in sorted(found, key=lambda s: -_STRENGTH[s.status]):
        sides = sides_of(statement.place)
        apart = sides and all(sides_of(k.place) and not sides & sides_of(k.place) for k in kept)
        if not kept or apart:
            kept.append(statement)
    return sorted(kept, key=found.index)


@lru_cache(maxsize=1 << 14)
def align_sentence(sentence: str) -> tuple[Statement, ...]:
    """Findings of one sentence, in the order of their first mention, each once, or once for either side.

    Where a sentence speaks of a finding several times, present wins over uncertain and uncertain over absent, unless
    one is said of the left side and the other of the right. Leave de-identification marks in (`report_sentences(...,
    marks="keep")`): they may hide the word that doubts.
    """
    tokens = tokens_of(sentence)
    terms = terms_of(tokens)
    reader = _Reader(terms, _or_follows(terms))
    for index, term in enumerate(terms):
        _HANDLERS[term.kind](reader, index, term)
    found: dict[str, list[Statement]] = {}
    for mention in reader.mentions:
        found.setdefault(mention.finding, []).extend(_statements(tokens, terms, mention))
    return tuple(statement for said in found.values() for statement in _settled(said))


def align_report(report: str | Sequence[str]) -> list[Statement]:
    """Findings of a whole report (or its columns), sentence by sentence; what is said twice is kept once."""
    sentences = report_sentences(report, marks="keep")
    return list(dict.fromkeys(statement for sentence in sentences for statement in align_sentence(sentence)))
