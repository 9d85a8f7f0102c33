"""Protocols of models. Knows nothing of tasks, rewards or where replies are kept.

Each capability is a type, so that it is known before any call is made:

    Model            generates text
    LabelModel       also gives log p(label | context)
    TokenModel       also splits text into its tokens
    BatchModel       also answers batches of requests, later and for less
    LabelReader      may give log p(label | context) along with text, depending on its endpoint
    CaptionModel     gives log p(label | image); the prompt is a caption with the slot {label}
    OptionsModel     takes request options, such as a JSON schema for its replies
    ImageModel       takes images in the user's turns of a chat
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from promptopt.models.options import NO_OPTIONS, RequestOptions
from promptopt.prompt import ImageMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from promptopt.prompt import Context
    from promptopt.replies import Arrival, Reply, Usage
    from promptopt.tools import Exchange, ToolSchema

Unit: TypeAlias = Literal["reply", "batch"]

_STEPS_PER_DOLLAR = 2.0**40  # costs are multiples of 1 / this


class Price(NamedTuple):
    """Dollars per million tokens.

    Args:
        input: input tokens.
        output: output tokens.
        cached: input tokens read from the provider's cache; None: same as `input`.
        written: input tokens written to the provider's cache; None: same as `input`.
    """

    input: float
    output: float
    cached: float | None = None
    written: float | None = None

    def of(self, usage: Usage) -> float:
        """Return the cost of a call in dollars, rounded to a multiple of 2^-40 so that sums are exact in any order."""
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.written is None else self.written
        uncached = max(usage.input - usage.cached - usage.written, 0)
        micro_dollars = (
            uncached * self.input + usage.cached * cached + usage.written * written + usage.output * self.output
        )
        return round(micro_dollars / 1e6 * _STEPS_PER_DOLLAR) / _STEPS_PER_DOLLAR

    def most(self, input_tokens: int, output_tokens: int) -> float:
        """Return an upper bound on the cost in dollars of these numbers of tokens, whatever is cached."""
        highest_input = max(self.input, self.cached or 0.0, self.written or 0.0)
        micro_dollars = input_tokens * highest_input + output_tokens * self.output
        return math.ceil(micro_dollars / 1e6 * _STEPS_PER_DOLLAR * (1 + 1e-12)) / _STEPS_PER_DOLLAR


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for one reply.

    Args:
        context: text to continue, or the turns of a chat.
        max_tokens: maximum length of the reply, in the model's tokens.
        temperature: sampling temperature; 0 is greedy decoding.
        top_p: nucleus sampling: sample from the smallest set of most likely tokens with this total probability; 1 for all.
        top_k: sample from this many most likely tokens; 0 for all. Applied before top_p.
        stop: the reply ends before the first of these strings.
        replicate: index of the sample; the same request with another index is another sample.
        labels: a `LabelReader` returns their log-probabilities if its endpoint supports it.
        tools: that the model may call, in chats.
        exchanges: turns that follow the context: tools that the model called, and what they returned.
        options: reply format, reasoning and the like; only for an `OptionsModel`.
    """

    context: Context
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    replicate: int = 0
    labels: tuple[str, ...] = ()
    tools: tuple[ToolSchema, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    options: RequestOptions = NO_OPTIONS

    @property
    def images(self) -> int:
        """The number of images that are sent."""
        turns = () if isinstance(self.context, str) else self.context
        return sum(not isinstance(part, str) for turn in turns if isinstance(turn, ImageMessage) for part in turn.parts)

    @property
    def texts(self) -> list[str]:
        """All texts that are sent, for counting; images as their placeholders."""
        turns = [self.context] if isinstance(self.context, str) else [turn.content for turn in self.context]
        called = [text for turn in self.exchanges for text in (turn.text, *map(str, turn.calls), *turn.results)]
        return [*turns, *("\n".join(tool) for tool in self.tools), *called]


@runtime_checkable
class Model(Protocol):
    """A model that answers requests."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that determines its replies, as plain JSON: provider, endpoint, model id, revision or digest, dtype."""
        ...

    @property
    def unit(self) -> Unit:
        """Unit of storage: "reply", or "batch" if replies are stored in one transaction because rounding depends on the batch."""
        ...

    @property
    def price(self) -> Price | None:
        """Dollars per million tokens; (0, 0) for your own model, None if unknown."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield each request's reply as soon as it is ready, in any order.

        If the unit is "reply", the next request is pulled when a call can start, in the thread that iterates over the
        replies; a budget or Ctrl-C ends `requests` early. Every pulled request is answered. If the unit is "batch",
        `requests` is a list.

        A call that fails despite retries arrives as a `Failure`.

        Raises:
            PermanentModelError: no later call can succeed.
        """
        ...


@runtime_checkable
class LabelModel(Model, Protocol):
    """A model that scores given labels."""

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context a response with natural log p(label | context) for all labels, in their order.

        Probabilities are normalized over the whole vocabulary; labels may have any number of tokens. Contexts are pulled
        like requests in `generate`.
        """
        ...


@runtime_checkable
class OptionsModel(Model, Protocol):
    """A model whose requests may have options."""

    def check_request(self, request: Request) -> Request:
        """Return a request that the model can answer.

        Raises:
            InputError: it cannot; the message says what to change.
        """
        ...


@runtime_checkable
class ImageModel(Model, Protocol):
    """A model that may take images."""

    @property
    def max_image_bytes(self) -> int:
        """Most bytes of an image in base64; 0 if it takes none."""
        ...


@runtime_checkable
class TokenModel(Model, Protocol):
    """A model with a tokenizer."""

    def pieces(self, text: str) -> list[str]:
        """Split `text` into the substrings of its tokens; they concatenate to `text`."""
        ...


@runtime_checkable
class ReachabilityAware(Model, Protocol):
    """A model at an endpoint; once known to be reachable, refusals are blamed on the request rather than the endpoint."""

    def assume_reachable(self) -> None:
        """Treat the endpoint as known to respond. Called when the memo has its replies."""


class Submission(NamedTuple):
    """What is known of a batch before it is created; used to find it if the response to its creation is lost.

    Args:
        tag: a unique name.
        since: earliest creation time, in seconds since 1970.
        size: number of requests.
    """

    tag: str
    since: float
    size: int


@runtime_checkable
class BatchModel(Model, Protocol):
    """A model that also accepts batches of requests, at a lower price and with no guaranteed response time.

    Requests are identified by keys: 1 to 64 letters, digits, - or _. `check` is called about once a second during waits
    and may raise to end them.
    """

    @property
    def model(self) -> Model:
        """The same model without batches."""
        ...

    def chunk(self, requests: Mapping[str, Request]) -> Iterator[Mapping[str, Request]]:
        """Split requests into chunks that each fit into one batch."""
        ...

    def submit(self, submission: Submission, requests: Mapping[str, Request], check: Callable[[], None]) -> str:
        """Create one batch, at most one despite retries, and return the provider's id for it.

        Raises:
            PermanentModelError: no later call can succeed.
            TransientModelError: the call failed; only `find` can tell whether the batch was created.
        """
        ...

    def find(self, submission: Submission, keys: Iterable[str], check: Callable[[], None]) -> str | None:
        """Return the provider's id for the batch that a submission created, None if it created none.

        Raises:
            PermanentModelError: no later call can succeed.
            TransientModelError: this cannot be determined now.
        """
        ...

    def collect(
        self, batch: str, requests: Mapping[str, Request], check: Callable[[], None]
    ) -> Iterator[tuple[str, Reply]]:
        """Wait until a batch has ended and yield its replies to `requests`; nothing if the provider lost the batch.

        Raises:
            PermanentModelError: the batch or one of its requests was permanently refused; raised after all replies.
            TransientModelError: the batch could not be polled or read; nothing was yielded.
        """
        ...


def without_batches(model: Model) -> Model:
    """Return a model that answers each request at once: the model itself, or the one behind a batch model."""
    return model.model if isinstance(model, BatchModel) else model


@runtime_checkable
class LabelReader(Model, Protocol):
    """A model whose replies may include log-probabilities of the request's labels; only a call can tell."""

    reads_labels: Literal[True]


@runtime_checkable
class CaptionModel(LabelModel, Protocol):
    """A model that scores captions of an image, one per label; contexts are (caption with a slot, image)."""

    captions: Literal[True]
