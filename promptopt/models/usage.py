"""What a call counts as: the tokens that its server reports or, where that cannot be true, the most that the call can take.

Knows texts, counts and prices; nothing of who asked or where a budget ends.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from promptopt.replies import Usage

if TYPE_CHECKING:
    from promptopt.models.base import Price
    from promptopt.prompt import Context
    from promptopt.replies import Response

_MOST_TOKENS = 10**9  # a larger number is no count of what one call took
_TURN_TOKENS = 16  # what a provider's template may add around a message, and around all of them
# Of whole texts at most, with a factor of two or more to spare: English has 4 or 5 bytes and 0.75 words a token.
_BYTES_PER_TOKEN, _WORDS_PER_TOKEN = 16, 2


class Bound(NamedTuple):
    """The most that one call can use."""

    tokens: int = 0
    dollars: float = 0.0


class Extent(NamedTuple):
    """Between which numbers of tokens one call must lie.

    Args:
        fewest: tokens of its input.
        most: tokens of its input.
        longest: tokens of its reply.
        writes: whether the model writes a reply, of a token at least; else it only scores labels.
    """

    fewest: int
    most: int
    longest: int
    writes: bool = True

    def bound(self, price: Price | None) -> Bound:
        """Return the most that the call can use."""
        return Bound(self.most + self.longest, 0.0 if price is None else price.most(self.most, self.longest))

    def counted(self, reply: Response, price: Price | None) -> Usage:
        """Return the usage to count for a reply: as reported, with the most in place of a part that is missing or too small.

        What is larger than the call can take is counted as reported: the provider may charge for it.
        """
        usage = reply.usage
        shortest = fewest_tokens(reply.text) if self.writes else 0
        if usage.output < shortest:
            usage = usage._replace(output=max(self.longest, shortest))
        if usage.input < self.fewest:
            dearer = price is not None and (price.written or 0.0) > price.input
            usage = usage._replace(input=self.most, cached=0, written=self.most if dearer else 0)
        return usage


def extent(context: Context, longest: int) -> Extent:
    """Return what a call that writes can take: no tokenizer gives a text more tokens than it has bytes."""
    turns = [context] if isinstance(context, str) else [turn.content for turn in context]
    most = sum(size(text) + _TURN_TOKENS for text in turns) + _TURN_TOKENS
    return Extent(sum(map(fewest_tokens, turns)), most, longest)


def label_extent(context: Context, labels: int, longest: int) -> Extent:
    """Return what scoring so many labels can take, up to `longest` bytes each: a server reads each label's text whole."""
    once = extent(context, longest + _TURN_TOKENS)
    return Extent(once.fewest, once.most * labels, once.longest * labels, writes=False)


def fewest_tokens(text: str) -> int:
    """Return fewer tokens than any tokenizer cuts a text into, but 1 at least."""
    return max(size(text) // _BYTES_PER_TOKEN, len(text.split()) // _WORDS_PER_TOKEN, 1)


def size(text: str) -> int:
    """Return the bytes of a text, halves of surrogate pairs included."""
    return len(text.encode("utf-8", "surrogatepass"))


def count(value: object) -> int:
    """Return a number of tokens that a server gave in any form, such as 20, 20.0 or "2e1"; 0 for what is none."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST_TOKENS:
        return 0
    return math.ceil(value)


def cleaned(reply: Response) -> Response:
    """Return a reply whose usage holds counts alone, and no part that is larger than the whole."""
    given, cached, output, written = map(count, reply.usage)
    usage = Usage(max(given, cached + written) if given else 0, cached, output, written)
    return reply if usage == reply.usage else replace(reply, usage=usage)
