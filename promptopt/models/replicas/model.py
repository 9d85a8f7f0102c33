"""A model in several copies on Ray: a batch is cut along the trie of common starts, and each part computed by one copy.

The weights are read where the copies are. Here the model is known by name, kind and tokenizer.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from promptopt.errors import InputError
from promptopt.models.base import CaptionModel, LabelModel, TokenModel
from promptopt.models.here import HERE, load_here
from promptopt.models.replicas.cut import cut, in_order
from promptopt.models.replicas.pool import Part, Pool
from promptopt.replies import Arrival, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from promptopt.models.base import Model, Price, Request, Unit
    from promptopt.prompt import Context

_KINDS = tuple(f"{kind}:" for kind in HERE)

# Symbols are characters, some four to a token.
_PART = 32_768  # distinct ones for which a replica gets more than one part: some seconds on a core
_LEAST = 1_024  # distinct ones for which a further replica is worth asking
_EACH = 4  # parts for each replica, at most: a death then costs less, and a slow node gets fewer
_TOKEN = 4


class RayModel:
    """A model that computes on its own machine, in several copies, each in an actor on Ray.

    It can do what the model of its spec can: score labels, cut tokens, compare captions. Replies are those of one copy, to
    rounding. An actor or node that dies is replaced as Ray finds room, and what it was at is done again by another; a part
    of a batch over which three died arrives as failures.

    Args:
        spec: as `load_model` reads it: `local:NAME`, `local-clip:NAME`, `python:MODULE:ATTRIBUTE`.
        replicas: how many.
        resources: of each replica, as {"GPU": 1, "CPU": 4}, or Ray's own names; by default a GPU each where there are
            enough, and an equal share of the processors.
        address: of a Ray cluster, "auto" for the one on this machine; by default Ray is started here, for this process.
            Where the process is connected to a cluster already, that one is used.

    Raises:
        InputError: the model cannot be read, is hosted, or fewer than one replica.
    """

    spec: str
    replicas: int
    resources: Mapping[str, float] | None
    address: str | None
    _here: Any

    def __new__(
        cls, spec: str, *, replicas: int, resources: Mapping[str, float] | None = None, address: str | None = None
    ) -> Self:
        """Return a model of the kind that the spec's is."""
        if not spec.startswith(_KINDS):
            raise InputError(
                f"{spec} has no use for replicas, which compute where they are: {', '.join(_KINDS)} do that"
            )
        if replicas < 1:
            raise InputError(f"there must be 1 replica or more, not {replicas}")
        here = load_here(*spec.split(":", 1))
        abilities = tuple(ability for protocol, ability in _ABILITIES if isinstance(here, protocol))
        model = object.__new__(cast("type[Self]", type(cls.__name__, (*abilities, cls), {})))
        model.spec, model.replicas, model.resources, model.address = spec, replicas, resources, address
        model._here = here
        return model

    def __repr__(self) -> str:
        return f"RayModel({self.spec!r}, replicas={self.replicas})"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """That of the model where the replicas are, which must be one; they are started here."""
        return self._pool.fingerprint

    @property
    def unit(self) -> Unit:
        """As of the model."""
        return self._model.unit

    @property
    def price(self) -> Price | None:
        """As of the model."""
        return self._model.price

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield a reply to each request, part by part as they are done.

        Raises:
            FinalModelError: the model refuses for good, or no replica is left.
            InputError: a replica cannot take a request, or cannot start.
        """
        requests = list(requests)
        written = [_TOKEN * request.max_tokens for request in requests]
        yield from self._replies(
            [request.context for request in requests],
            written,
            lambda numbers: Part(numbers, "generate", ([requests[i] for i in numbers],)),
        )

    def _replies(
        self, contexts: Sequence[Context], extra: Sequence[int] | None, part: Callable[[Sequence[int]], Part]
    ) -> Iterator[Arrival]:
        """Cut a batch, have its parts computed, and number the replies as in the batch."""
        numbers = parts_of([_text(context) for context in contexts], self.replicas, extra)
        for done, replies in self._pool.run([part(some) for some in numbers]):
            if isinstance(replies, Failure):
                yield from (Arrival(number, replies) for number in done.numbers)
            else:
                yield from (Arrival(done.numbers[number], reply) for number, reply in replies)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(self.spec, self.replicas, self.resources, self.address)

    @property
    def _model(self) -> Model:
        here: Model = self._here
        return here


class _Labels(RayModel):
    """Replicas that score labels."""

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context a response with log p(label | context), part by part as they are done.

        Raises:
            FinalModelError: the model refuses for good, or no replica is left.
            InputError: a replica cannot take a context, or cannot start.
        """
        contexts, given = list(contexts), list(labels)
        yield from self._replies(
            contexts,
            None,
            lambda numbers: Part(numbers, "label_logprobs", ([contexts[i] for i in numbers], given)),
        )


class _Tokens(RayModel):
    """Replicas whose tokenizer is at hand."""

    def pieces(self, text: str) -> list[str]:
        """Cut `text` into the strings that its tokens cover; joined they are `text` again."""
        here: TokenModel = self._here
        return here.pieces(text)


class _Captions(RayModel):
    """Replicas that compare images with captions."""

    captions: Literal[True] = True


_ABILITIES: tuple[tuple[type, type[RayModel]], ...] = (
    (LabelModel, _Labels),
    (TokenModel, _Tokens),
    (CaptionModel, _Captions),
)


def parts_of(texts: Sequence[str], replicas: int, extra: Sequence[int] | None = None) -> list[list[int]]:
    """Cut a batch for so many replicas: a part each, several of a large batch, fewer of a small one.

    Texts are cut where their characters part, not their tokens: what starts alike is tokenised alike up to the last token,
    and tokenising takes some hundred times as long, so that here it would be what limits many replicas.

    Args:
        texts: [requests].
        replicas: how many there are.
        extra: [requests], characters that each takes besides.

    Returns:
        Indices of requests, neighbours together.
    """
    ordered = in_order(texts, extra)
    symbols = int(ordered.before[-1])
    rounds = min(max(math.ceil(symbols / _PART / replicas), 1), _EACH)  # whole ones: in a broken one many would wait
    return cut(ordered, max(min(rounds * replicas, symbols // _LEAST), 1))


def _text(context: Context) -> str:
    """Return a context as one text, for the cut alone."""
    return context if isinstance(context, str) else "\n".join(part for turn in context for part in turn)
