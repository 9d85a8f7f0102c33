"""The usage to count for a call: as reported by the server or, if the report is implausible, an upper bound.

Knows texts, counts and prices, but nothing of callers or budgets.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from promptopt.models.base import Request
from promptopt.replies import Usage

if TYPE_CHECKING:
    from promptopt.models.base import Price
    from promptopt.prompt import Context
    from promptopt.replies import Response

_MAX_TOKENS = 10**9  # larger reported counts are invalid
_TOOLS_TOKENS = 1_000  # upper bound on the instructions that a provider adds for tools; Anthropic lists up to 530
# Upper bound on an image. The most that a provider documents: gpt-4o-mini counts 2,833 + 5,667 for each tile of 512 pixels, and an
# image is scaled to 2,048 x 768 at most, which is 8 tiles: 48,169 tokens (developers.openai.com/api/docs/guides/images-vision).
IMAGE_TOKENS = 50_000
USUAL_IMAGE_TOKENS = 1_600
"""Estimate for an image of a megapixel or more: the most that earlier Claude models count (1,568 pixels on the long edge)."""

_TURN_TOKENS = 16  # upper bound on what a chat template adds around a message, and around the whole chat
# Upper bounds for whole texts, with a safety factor of at least 2: English has 4 to 5 bytes and 0.75 words per token.
_BYTES_PER_TOKEN, _WORDS_PER_TOKEN = 16, 2


class Bound(NamedTuple):
    """Upper bound on what one call can use."""

    tokens: int = 0
    dollars: float = 0.0


class TokenRange(NamedTuple):
    """Bounds on the tokens of one call.

    Args:
        min_input: lower bound on input tokens.
        max_input: upper bound on input tokens.
        max_output: upper bound on output tokens.
        generates: whether the model generates a reply of at least one token; else it only scores labels.
    """

    min_input: int
    max_input: int
    max_output: int
    generates: bool = True

    def bound(self, price: Price | None) -> Bound:
        """Return the upper bound in tokens and dollars."""
        return Bound(
            self.max_input + self.max_output, 0.0 if price is None else price.most(self.max_input, self.max_output)
        )

    def billable_usage(self, reply: Response, price: Price | None) -> Usage:
        """Return the usage to count for a reply: as reported, with upper bounds for parts that are missing or too small.

        Reports above the upper bound are counted as reported, because the provider may charge for them.
        """
        usage = reply.usage
        min_output = min_tokens(reply.text) if self.generates else 0
        if usage.output < min_output:
            usage = usage._replace(output=max(self.max_output, min_output))
        if usage.input < self.min_input:
            writing_costs_more = price is not None and (price.written or 0.0) > price.input
            usage = usage._replace(input=self.max_input, cached=0, written=self.max_input if writing_costs_more else 0)
        return usage


def expected_token_range(largest: Usage) -> TokenRange:
    """Return the range to reserve for a call of a function, whose size only the call shows: twice the largest call before it."""
    return TokenRange(0, 2 * largest.input, 2 * largest.output, generates=False)


def reply_token_range(request: Request) -> TokenRange:
    """Return the bounds for a call that generates text: no tokenizer gives a text more tokens than it has bytes.

    An image has no lower bound.
    """
    turns = request.texts
    max_input = sum(byte_length(text) + _TURN_TOKENS for text in turns) + _TURN_TOKENS + request.images * IMAGE_TOKENS
    if request.tools:
        max_input += _TOOLS_TOKENS
    if request.options.response_format is not None:  # a schema is input, and a format may add instructions
        max_input += _TOOLS_TOKENS + byte_length(json.dumps(request.options.response_format))
    return TokenRange(sum(map(min_tokens, turns)), max_input, request.max_tokens)


def label_token_range(context: Context, labels: int, longest: int) -> TokenRange:
    """Return the bounds for scoring so many labels of up to `longest` bytes: a server may read the context for each label."""
    single = reply_token_range(Request(context=context, max_tokens=longest + _TURN_TOKENS))
    return TokenRange(single.min_input, single.max_input * labels, single.max_output * labels, generates=False)


def min_tokens(text: str) -> int:
    """Return a lower bound on the tokens of a text with any tokenizer, at least 1."""
    return max(byte_length(text) // _BYTES_PER_TOKEN, len(text.split()) // _WORDS_PER_TOKEN, 1)


def byte_length(text: str) -> int:
    """Return the length of a text in UTF-8 bytes, including lone surrogates."""
    return len(text.encode("utf-8", "surrogatepass"))


def parse_count(value: object) -> int:
    """Parse a token count in any form, such as 20, 20.0 or "2e1"; 0 if it is invalid."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MAX_TOKENS:
        return 0
    return math.ceil(value)


def with_valid_usage(reply: Response) -> Response:
    """Return the reply with integers as counts, invalid ones zeroed, and the total input at least the sum of its parts."""
    reported_input, cached, output, written = map(parse_count, reply.usage)
    usage = Usage(max(reported_input, cached + written) if reported_input else 0, cached, output, written)
    return replace(reply, usage=usage)  # even if equal: 1.0 == 1, but the memo takes integers only
