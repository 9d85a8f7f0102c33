"""Requests to score a given text over the completions API, and the tokens that come back. Pure functions of the JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from promptopt.models.base import Request
from promptopt.models.hosted.bodies import at, logprob
from promptopt.replies import Response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.replies import Usage

ScoringMethod: TypeAlias = Literal["echo", "prompt_logprobs"]

METHODS: tuple[ScoringMethod, ...] = ("echo", "prompt_logprobs")
_FIELDS: Mapping[str, dict[str, Any]] = {
    "write": {"logprobs": 1},
    "echo": {"echo": True, "logprobs": 1},
    "prompt_logprobs": {"prompt_logprobs": 1},
}


class Token(NamedTuple):
    """A token of a scored text; the log-probability of the first token may be None."""

    text: str
    logprob: float | None


@dataclass(frozen=True, kw_only=True)
class ScoringRequest(Request):
    """A request to score a text; it also generates one token, because some servers cannot generate none.

    Args:
        method: a scoring method, or "write", which scores only the generated token.
    """

    method: str
    max_tokens: int = 1

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the JSON body that ask for scores."""
        return _FIELDS[self.method]


@dataclass(frozen=True)
class ScoredText(Response):
    """The tokens of a scored text, followed by `generated` tokens that the server generated."""

    tokens: tuple[Token, ...] = ()
    generated: int = 0

    @classmethod
    def read(cls, body: Any, method: str, usage: Usage) -> ScoredText:
        """Read a reply's JSON."""
        choice = at(body, "choices", 0)
        if method == "prompt_logprobs":
            return cls("", usage=usage, tokens=_prompt_tokens(at(choice, "prompt_logprobs")))
        texts, logprobs = at(choice, "logprobs", "tokens"), at(choice, "logprobs", "token_logprobs")
        if not isinstance(texts, list) or not isinstance(logprobs, list):
            return cls("", usage=usage)
        tokens = tuple(Token(str(text), logprob(value)) for text, value in zip(texts, logprobs, strict=False))
        return cls("", usage=usage, tokens=tokens, generated=usage.output)

    def prompt_tokens(self, ending: str) -> tuple[Token, ...] | None:
        """Return the tokens of the given text, which ends with `ending`; None if the server did not return them.

        Drops the generated tokens by the server's count. Some servers count a token that they do not list: then drops none.
        """
        if len(self.tokens) <= self.generated:
            return None
        for count in dict.fromkeys((self.generated, 0)):
            tokens = self.tokens[: len(self.tokens) - count]
            if spells(tokens, ending):
                return tokens
        return None


def spells(tokens: Sequence[Token], ending: str) -> bool:
    """Whether the tokens end with a text, as far as servers reproduce texts."""
    return _ascii_only("".join(token.text for token in tokens)).endswith(_ascii_only(ending))


def start_of(ending: str, row: Sequence[Token]) -> int | None:
    """Return the index of the first token that overlaps the ending, None if the last tokens do not contain it."""
    text = ""
    for index in range(len(row) - 1, -1, -1):
        text = row[index].text + text
        if len(text) >= len(ending):
            return index if text.endswith(ending) else None
    return None


def _prompt_tokens(positions: Any) -> tuple[Token, ...]:
    """Read vLLM's [None, {token id: {"logprob", "decoded_token"}}, ...], where the text's own token comes first in each dict."""
    out = []
    for position in positions if isinstance(positions, list) else ():
        actual = next(iter(position.values()), None) if isinstance(position, dict) else None
        out.append(Token(str(at(actual, "decoded_token") or ""), logprob(at(actual, "logprob"))))
    return tuple(out)


def _ascii_only(text: str) -> str:
    """Keep ASCII non-space characters: the only ones that every server reproduces in the texts of tokens."""
    return "".join(letter for letter in text if letter.isascii() and not letter.isspace())
