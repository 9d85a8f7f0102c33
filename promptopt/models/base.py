"""What a model must be able to do. Knows nothing of tasks, rewards or where replies are kept.

A capability is a type, so that what a model can do is known before anything is spent:

    Model            generate text
    LabelModel       also give log p(label | context)
    TokenModel       also cut text into its own tokens
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from promptopt.prompt import Context
    from promptopt.scores import Arrival

Unit: TypeAlias = Literal["reply", "batch"]


class Price(NamedTuple):
    """Dollars for a million tokens."""

    input: float
    output: float


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
    """

    context: Context
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    replicate: int = 0


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

    def generate(self, requests: Sequence[Request]) -> Iterator[Arrival]:
        """Yield each request's reply as soon as it is there, in any order.

        A call that failed for good in spite of retries arrives as a `Failure`.

        Raises:
            FinalModelError: no later call can work either.
        """
        ...


@runtime_checkable
class LabelModel(Model, Protocol):
    """A model that can say how likely a given answer is."""

    def label_logprobs(self, contexts: Sequence[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context a response with natural log p(label | context) for all labels, in their order.

        Normalised over the whole vocabulary; labels may have any number of tokens.
        """
        ...


@runtime_checkable
class TokenModel(Model, Protocol):
    """A model whose tokenizer is at hand."""

    def pieces(self, text: str) -> list[str]:
        """Cut `text` into the strings that its tokens cover; joined they are `text` again."""
        ...
