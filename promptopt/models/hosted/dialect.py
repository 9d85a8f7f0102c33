"""Finds out which optional request fields an endpoint accepts, by omitting them. Knows nothing of HTTP or of replies.

Servers word refusals in many ways. If the message names a field of the request, that field is omitted; if it names none,
each is tried in turn. A field value that was accepted before is not suspected.
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

_FIELD_PATTERNS = {  # how error messages name each field
    LOGPROBS: r"log[ _-]?prob",
    "stop": r"\bstop\b|stop[ _]sequences?",
    "top_p": r"\btop[ _-]?p\b",
    "top_k": r"\btop[ _-]?k\b",
    "temperature": r"temperature",
    LENGTH: r"max_(completion_|new_|output_)?tokens",
}
_REPLACEABLE = (LOGPROBS, "stop")  # fields that the user did not choose, or that can be done without the server
_BAD_VALUE = re.compile(  # the value is rejected
    r"must be|should be|at (most|least)|between|(less|greater|larger|smaller) than|too (large|small|high|low|long|many)|"
    r"range|maximum|minimum|positive|[<>]"
)
_UNSUPPORTED = re.compile(  # the field itself is rejected
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|extra|not (permitted|allowed|enabled|available)|forbidden|"
    r"deprecated|only the default|cannot find|disabled|\buse\b.{0,40}instead"
)
_ABOVE_ZERO = re.compile(r"positive|greater than|at least|above|larger than|minimum|>|non-?zero")
_SERVER_ERROR, _NOT_IMPLEMENTED = 500, 501
_STATUSES = (400, 422, _NOT_IMPLEMENTED)


@dataclass(frozen=True)
class Dialect:
    """How requests are formatted.

    Args:
        omitted: optional fields that are not sent.
        length: the name of the field that limits the length.
        top_logprobs: number of most likely tokens whose log-probabilities are requested.
    """

    omitted: frozenset[str] = frozenset()
    length: str = LENGTH
    top_logprobs: int = 20

    def without(self, name: str) -> Dialect:
        """Return the dialect that also omits a field."""
        return replace(self, omitted=self.omitted | {name})


class Change(NamedTuple):
    """One possible change to a request.

    Args:
        field: the field to change.
        value: its current value.
        dialect: the dialect with the change.
        message: logged about the model, once, if the change is adopted.
    """

    field: str
    value: Any
    dialect: Dialect
    message: str

    @property
    def accepted_as(self) -> str:
        """An identifier of the field and its value."""
        return f"{self.field}={self.value!r}"


def changes(dialect: Dialect, fields: dict[str, Any], words: str = "") -> list[Change]:
    """Return the possible changes to a request, the most likely culprit first.

    Args:
        dialect: the request's dialect.
        fields: its optional fields and their values, under our names.
        words: of the server's error, which may name a limit.
    """
    out = []
    if LOGPROBS in fields:
        limit = _limit(words, dialect.top_logprobs)
        if limit and fields[LOGPROBS] > limit:
            message = f"gives the log-probabilities of at most {limit} tokens"
            out.append(Change(LOGPROBS, fields[LOGPROBS], replace(dialect, top_logprobs=limit), message))
        out.append(Change(LOGPROBS, fields[LOGPROBS], dialect.without(LOGPROBS), NO_LOGPROBS))
    out += [
        Change(name, value, dialect.without(name), _MESSAGES.get(name, f"does not accept {name}"))
        for name, value in sorted(fields.items(), key=_order)
        if name not in (LOGPROBS, LENGTH)
    ]
    if LENGTH in fields:
        other = "max_completion_tokens" if dialect.length == LENGTH else LENGTH
        message = f"takes {other} instead of {dialect.length}"
        out.append(Change(LENGTH, fields[LENGTH], replace(dialect, length=other), message))
    return out


def _order(entry: tuple[str, Any]) -> int:
    known = [*_FIELD_PATTERNS]
    return known.index(entry[0]) if entry[0] in known else len(known)


_MESSAGES = {
    "stop": "does not accept stop: replies are truncated by promptopt",
    **{
        name: f"does not accept {name}: it uses its own value, and replies may vary from call to call"
        for name in ("top_p", "top_k", "temperature")
    },
}


def named(change: Change, words: str) -> bool:
    """Whether an error says that the field is unsupported; if it rejects a value that the user chose, the user must fix it."""
    if not re.search(_FIELD_PATTERNS.get(change.field, re.escape(change.field)), words):
        return False
    if change.field in _REPLACEABLE or _UNSUPPORTED.search(words):
        return True
    if change.field == LENGTH and "max_completion_tokens" in words and "max_tokens" in words:
        return True
    if change.field == "temperature" and change.value == 0 and _ABOVE_ZERO.search(words):
        return True
    return not _BAD_VALUE.search(words)


@dataclass
class Negotiation:
    """What is known about the fields that one model at one endpoint accepts.

    Args:
        dialect: formats requests that are known to be accepted.
        announce: called once with the message of each adopted change.
    """

    dialect: Dialect
    announce: Callable[[str], None]
    _accepted: set[str] = field(default_factory=set)
    _searched: bool = False

    def accept(self, used: Sequence[Change]) -> None:
        """Record that a request with these fields was answered."""
        self._accepted.update(change.accepted_as for change in used)

    def adopt(self, adopted: Sequence[Change]) -> None:
        """Format requests with these changes from now on."""
        if adopted:
            self.dialect = adopted[-1].dialect
        for change in adopted:
            self.announce(change.message)

    def suspects(self, refusal: Refusal, possible: Sequence[Change]) -> list[Change]:
        """Return the changes worth trying after a refusal; none if it is about something else."""
        unproven = [change for change in possible if change.accepted_as not in self._accepted]
        blamed = [change for change in unproven if named(change, refusal.words)]
        if blamed and (refusal.status in _STATUSES or _UNSUPPORTED.search(refusal.words)):
            return blamed
        unrelated = refusal.about_key or refusal.about_quota or refusal.about_model or refusal.about_content
        if (
            unrelated
            or self._searched
            or refusal.status not in _STATUSES
            or any(re.search(pattern, refusal.words) for pattern in _FIELD_PATTERNS.values())
        ):
            return []
        # Log-probabilities are the most often refused field and not one that the user set: always worth trying without.
        suspects = unproven if refusal.vague else [change for change in unproven if change.field == LOGPROBS]
        self._searched = bool(suspects)
        return suspects


async def negotiate(
    negotiation: Negotiation,
    refusal: Refusal,
    possible: Callable[[Dialect, str], list[Change]],
    send: Callable[[Dialect], Awaitable[Any]],
) -> Any:
    """Resend a refused request without the suspected fields, one at a time; return the last reply or refusal.

    Args:
        negotiation: what is known about the model; updated if a resend succeeds.
        refusal: of the request in the current dialect.
        possible: returns the possible changes, given a dialect and the error's words.
        send: sends the request in a dialect; returns a refusal or a reply.
    """
    made: list[Change] = []
    dialect = negotiation.dialect
    for _ in range(len(_FIELD_PATTERNS) + 1):  # each round changes a field for good
        suspects = negotiation.suspects(refusal, possible(dialect, refusal.words))
        for change in suspects:
            answer = await send(change.dialect)
            if not isinstance(answer, Refusal):
                negotiation.adopt([*made, change])
                return answer
            if _gist(answer) != _gist(refusal):  # the server now objects to something else
                made.append(change)
                dialect, refusal = change.dialect, answer
                break
        else:
            dropped = [change for change in suspects if change.field in change.dialect.omitted]
            if len(dropped) > 1:  # several fields may be refused with the same message: omit all of them
                minimal = replace(dialect, omitted=dialect.omitted | {change.field for change in dropped})
                answer = await send(minimal)
                if not isinstance(answer, Refusal):
                    negotiation.adopt([*made, *(change._replace(dialect=minimal) for change in dropped)])
                    return answer
            return refusal
    return refusal


def _gist(refusal: Refusal) -> str:
    """Return the words without numbers and request ids, which differ between calls."""
    return f"{refusal.status} " + re.sub(r"\b\w*\d\w*\b", "", refusal.words)


def _limit(words: str, requested: int) -> int:
    """Return the maximum `top_logprobs` that an error names, 0 if it names none."""
    if not re.search("top_?logprobs", words):
        return 0
    return max(
        (int(number) for number in re.findall(r"(?<![\w.])\d{1,2}(?![\w.]*\d)", words) if 0 < int(number) < requested),
        default=0,
    )


def truncate_at(text: str, stops: Sequence[str]) -> str:
    """Return a reply up to the first stop string, for servers that do not support them."""
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]
