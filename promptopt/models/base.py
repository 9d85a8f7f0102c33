"""What a model must be able to do. Knows nothing of tasks, rewards or where replies are kept.

A capability is a type, so that what a model can do is known before anything is spent:

    Model            generate text
    LabelModel       also give log p(label | context)
    TokenModel       also cut text into its own tokens
    LabelReader      give log p(label | context) beside text, where its endpoint does
    CaptionModel     give log p(label | image), the prompt being a caption with the slot {label}
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.prompt import Context
    from promptopt.replies import Arrival, Usage

Unit: TypeAlias = Literal["reply", "batch"]

_GRID = 2.0**40  # steps in a dollar


class Price(NamedTuple):
    """Dollars for a million tokens.

    Args:
        input: read by the model.
        output: written by it.
        cached: input read from the provider's cache; None: as input.
        written: input written to the provider's cache; None: as input.
    """

    input: float
    output: float
    cached: float | None = None
    written: float | None = None

    def of(self, usage: Usage) -> float:
        """Return the dollars that a call cost, to 2^-40: so that sums of them are exact, in whatever order they come."""
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.written is None else self.written
        fresh = max(usage.input - usage.cached - usage.written, 0)
        spent = fresh * self.input + usage.cached * cached + usage.written * written + usage.output * self.output
        return round(spent / 1e6 * _GRID) / _GRID

    def most(self, input_tokens: int, output_tokens: int) -> float:
        """Return the most dollars that so many tokens can cost, whatever the provider's cache does."""
        dearest = max(self.input, self.cached or 0.0, self.written or 0.0)
        spent = input_tokens * dearest + output_tokens * self.output
        return math.ceil(spent / 1e6 * _GRID * (1 + 1e-12)) / _GRID


@dataclass(frozen=True, kw_only=True)
class Request:
    """One reply that is wanted.

    Args:
        context: text to continue, or the turns of a chat.
        max_tokens: longest reply, in the model's tokens.
        temperature: 0 takes the likeliest token.
        top_p: sample from the fewest of the likeliest tokens whose probability reaches this; 1 for all.
        top_k: sample from so many of the likeliest tokens; 0 for all. Comes before top_p.
        stop: the reply ends before the first of these.
        replicate: number of the sample; the same request with another number is another sample.
        labels: whose log-probabilities a `LabelReader` is to read off, where its endpoint gives them.
    """

    context: Context
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    replicate: int = 0
    labels: tuple[str, ...] = ()


@runtime_checkable
class Model(Protocol):
    """Anything that answers requests."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """All that decides its replies, as plain JSON: provider, endpoint, model id, revision or digest, dtype."""
        ...

    @property
    def unit(self) -> Unit:
        """What is stored at once: "reply", or "batch" where rounding depends on how a batch is composed."""
        ...

    @property
    def price(self) -> Price | None:
        """Dollars for a million tokens; (0, 0) for a model of one's own, None where it is not known."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield each request's reply as soon as it is there, in any order.

        Where the unit is "reply", the next request is pulled when there is room for it, in the thread that iterates over
        the replies: a budget or Ctrl-C ends `requests` early. What was pulled is answered. Where it is "batch",
        `requests` is a list.

        A call that failed for good in spite of retries arrives as a `Failure`.

        Raises:
            FinalModelError: no later call can work either.
        """
        ...


@runtime_checkable
class LabelModel(Model, Protocol):
    """A model that can say how likely a given answer is."""

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context a response with natural log p(label | context) for all labels, in their order.

        Normalised over the whole vocabulary; labels may have any number of tokens. Contexts are pulled as requests are in
        `generate`.
        """
        ...


@runtime_checkable
class TokenModel(Model, Protocol):
    """A model whose tokenizer is at hand."""

    def pieces(self, text: str) -> list[str]:
        """Cut `text` into the strings that its tokens cover; joined they are `text` again."""
        ...


@runtime_checkable
class Vouched(Model, Protocol):
    """A model at an endpoint, whose refusal of a request means less once others are known to be answered."""

    def vouch(self) -> None:
        """Take it as known that the endpoint answers: a memo holds replies of it."""


@runtime_checkable
class LabelReader(Model, Protocol):
    """A model whose replies may come with log-probabilities of the labels in a request, or without: known by asking only."""

    reads_labels: Literal[True]


@runtime_checkable
class CaptionModel(LabelModel, Protocol):
    """A model that compares an image with a caption for each label; contexts are (caption with its slot, image)."""

    captions: Literal[True]
