"""Which optional fields of a request an endpoint takes, found out by leaving them out. Knows nothing of HTTP or of replies.

Servers refuse fields in any words. Where the words name a field of the request, that one is left out; where they name
nothing, each is tried. What the same value of a field was accepted with before is not at fault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from promptopt.models.hosted.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

LOGPROBS = "logprobs"
LENGTH = "max_tokens"
NO_LOGPROBS = "gives no log-probabilities: labels are read from the text, as votes"

_NAMED = {  # by what an error's words name a field
    LOGPROBS: r"log[ _-]?prob",
    "stop": r"\bstop\b|stop[ _]sequences?",
    "top_p": r"\btop[ _-]?p\b",
    "top_k": r"\btop[ _-]?k\b",
    "temperature": r"temperature",
    LENGTH: r"max_(completion_|new_|output_)?tokens",
}
_OURS = (LOGPROBS, "stop")  # whose values the user has not chosen, or which can be done without the server
_NOT_THE_FIELD = re.compile(  # an error of a value
    r"must be|should be|at (most|least)|between|(less|greater|larger|smaller) than|too (large|small|high|low|long|many)|"
    r"range|maximum|minimum|positive|[<>]"
)
_THE_FIELD = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|extra|not (permitted|allowed|enabled|available)|forbidden|"
    r"deprecated|only the default|cannot find|disabled|\buse\b.{0,40}instead"
)
_ABOVE_ZERO = re.compile(r"positive|greater than|at least|above|larger than|minimum|>|non-?zero")
_SERVER_ERROR, _NOT_IMPLEMENTED = 500, 501
_STATUSES = (400, 422, _NOT_IMPLEMENTED)


@dataclass(frozen=True)
class Dialect:
    """How requests are written.

    Args:
        left_out: optional fields that are not sent.
        length: the name of the length limit.
        likeliest: tokens whose log-probabilities are asked for.
    """

    left_out: frozenset[str] = frozenset()
    length: str = LENGTH
    likeliest: int = 20

    def without(self, name: str) -> Dialect:
        """Return the dialect that also leaves out a field."""
        return replace(self, left_out=self.left_out | {name})


class Change(NamedTuple):
    """One way to write a request otherwise.

    Args:
        field: what it changes.
        value: that field's value so far.
        dialect: the dialect so far, changed.
        says: what is then said of the model, once.
    """

    field: str
    value: Any
    dialect: Dialect
    says: str

    @property
    def accepted_as(self) -> str:
        """A name for the field and its value."""
        return f"{self.field}={self.value!r}"


def changes(dialect: Dialect, fields: dict[str, Any], words: str = "") -> list[Change]:
    """Return what can be changed about a request, the likeliest culprit first.

    Args:
        dialect: it was written in.
        fields: its optional fields and their values, under our names.
        words: the server's, which may name a limit.
    """
    out = []
    if LOGPROBS in fields:
        limit = _limit(words, dialect.likeliest)
        if limit and fields[LOGPROBS] > limit:
            says = f"gives the log-probabilities of {limit} tokens at most"
            out.append(Change(LOGPROBS, fields[LOGPROBS], replace(dialect, likeliest=limit), says))
        out.append(Change(LOGPROBS, fields[LOGPROBS], dialect.without(LOGPROBS), NO_LOGPROBS))
    out += [
        Change(name, value, dialect.without(name), _SAYS.get(name, f"takes no {name}"))
        for name, value in sorted(fields.items(), key=_order)
        if name not in (LOGPROBS, LENGTH)
    ]
    if LENGTH in fields:
        other = "max_completion_tokens" if dialect.length == LENGTH else LENGTH
        says = f"takes {other} in place of {dialect.length}"
        out.append(Change(LENGTH, fields[LENGTH], replace(dialect, length=other), says))
    return out


def _order(entry: tuple[str, Any]) -> int:
    known = [*_NAMED]
    return known.index(entry[0]) if entry[0] in known else len(known)


_SAYS = {
    "stop": "takes no stop: replies are cut here",
    **{
        name: f"takes no {name}: its own holds, and replies vary from call to call"
        for name in ("top_p", "top_k", "temperature")
    },
}


def named(change: Change, words: str) -> bool:
    """Whether an error's words name the field, as one that is not taken; a value of the user's own is theirs to correct."""
    if not re.search(_NAMED.get(change.field, re.escape(change.field)), words):
        return False
    if change.field in _OURS or _THE_FIELD.search(words):
        return True
    if change.field == LENGTH and "max_completion_tokens" in words and "max_tokens" in words:
        return True
    if change.field == "temperature" and change.value == 0 and _ABOVE_ZERO.search(words):
        return True
    return not _NOT_THE_FIELD.search(words)


@dataclass
class Negotiation:
    """What was found out of one model at one endpoint.

    Args:
        dialect: what is known to be taken.
        announce: called once with what each change says.
    """

    dialect: Dialect
    announce: Callable[[str], None]
    _accepted: set[str] = field(default_factory=set)
    _searched: bool = False

    def accept(self, used: Sequence[Change]) -> None:
        """Note that a request with such fields was answered."""
        self._accepted.update(change.accepted_as for change in used)

    def adopt(self, made: Sequence[Change]) -> None:
        """Write requests so from now on."""
        if made:
            self.dialect = made[-1].dialect
        for change in made:
            self.announce(change.says)

    def suspects(self, refusal: Refusal, possible: Sequence[Change]) -> list[Change]:
        """Return the changes worth a try after a refusal, none where it is about something else."""
        open_ = [change for change in possible if change.accepted_as not in self._accepted]
        blamed = [change for change in open_ if named(change, refusal.words)]
        if blamed and (refusal.status in _STATUSES or _THE_FIELD.search(refusal.words)):
            return blamed
        about = refusal.of_key or refusal.of_quota or refusal.of_model or refusal.of_content or self._searched
        if about or refusal.status not in _STATUSES or any(re.search(each, refusal.words) for each in _NAMED.values()):
            return []
        # Log-probabilities are nobody's wish in so many words, and what is refused most: worth a try whatever is said.
        tried = open_ if refusal.vague else [change for change in open_ if change.field == LOGPROBS]
        self._searched = bool(tried)
        return tried


async def negotiate(
    negotiation: Negotiation,
    refusal: Refusal,
    possible: Callable[[Dialect, str], list[Change]],
    ask: Callable[[Dialect], Awaitable[Any]],
) -> Any:
    """Ask again without the fields that a refusal may be about, one at a time; return what the last try gave.

    Args:
        negotiation: what is known, and is added to where a try succeeds.
        refusal: of the request as it was written.
        possible: the changes to the request as written in a dialect, given the server's words.
        ask: sends it in another dialect; gives a refusal or a reply.
    """
    made: list[Change] = []
    dialect = negotiation.dialect
    for _ in range(len(_NAMED) + 1):  # each round changes a field for good
        tried = negotiation.suspects(refusal, possible(dialect, refusal.words))
        for change in tried:
            answer = await ask(change.dialect)
            if not isinstance(answer, Refusal):
                negotiation.adopt([*made, change])
                return answer
            if _gist(answer) != _gist(refusal):  # it complains of something else now
                made.append(change)
                dialect, refusal = change.dialect, answer
                break
        else:
            dropped = [change for change in tried if change.field in change.dialect.left_out]
            if len(dropped) > 1:  # several fields may be refused in the same words: all of them at once
                bare = replace(dialect, left_out=dialect.left_out | {change.field for change in dropped})
                answer = await ask(bare)
                if not isinstance(answer, Refusal):
                    negotiation.adopt([*made, *(change._replace(dialect=bare) for change in dropped)])
                    return answer
            return refusal
    return refusal


def _gist(refusal: Refusal) -> str:
    """Return the words without numbers and names of requests, which differ from call to call."""
    return f"{refusal.status} " + re.sub(r"\b\w*\d\w*\b", "", refusal.words)


def _limit(words: str, asked: int) -> int:
    """Return the most likeliest tokens that an error lets one ask for, 0 where it names no number."""
    if not re.search("top_?logprobs", words):
        return 0
    return max(
        (int(found) for found in re.findall(r"(?<![\w.])\d{1,2}(?![\w.]*\d)", words) if 0 < int(found) < asked),
        default=0,
    )


def cut(text: str, stops: Sequence[str]) -> str:
    """Return a reply up to the first of the texts at which a server was not asked to stop."""
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]
