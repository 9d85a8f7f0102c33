"""Several copies of a model on Ray: a batch is partitioned along its prefix trie, and each part is computed by one copy.

Only the replicas load the weights. This process needs the model's name, kind and tokenizer.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from promptopt.errors import InputError
from promptopt.models.base import CaptionModel, LabelModel, TokenModel
from promptopt.models.kinds import IN_PROCESS, load_in_process
from promptopt.models.replicas.partition import partition, sort_by_prefix
from promptopt.models.replicas.pool import Part, Pool
from promptopt.replies import Arrival, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from promptopt.models.base import Model, Price, Request, Unit
    from promptopt.prompt import Context

_KINDS = tuple(f"{kind}:" for kind in IN_PROCESS)

# All in distinct characters, i.e. not counting shared prefixes.
_MAX_PART = 32_768  # above it a replica gets more than one part; takes a few seconds on one core
_MIN_PART = 1_024  # below it another replica is not worth the overhead
_PARTS_PER_REPLICA = 4  # at most: smaller parts lose less when a replica dies and balance slow nodes
_CHARACTERS_PER_TOKEN = 4


class RayModel:
    """Several copies of a local model, each in a Ray actor.

    It supports what the underlying model supports: label scores, tokenization, captions. Replies equal those of a single
    copy up to rounding. When an actor or node dies, Ray replaces it and its part of the batch is computed again; if three
    actors die on the same part, its requests fail.

    Args:
        spec: of the model, as in `load_model`: `local:NAME`, `local-clip:NAME`, `python:MODULE:ATTRIBUTE`.
        replicas: number of copies.
        resources: per replica, such as {"GPU": 1, "CPU": 4} or custom Ray resources; by default a GPU each if there are
            enough, and an equal share of the CPU cores.
        address: of a Ray cluster, or "auto" for the one on this machine; by default Ray is started for this process.
            If the process is already connected to a cluster, that one is used.

    Raises:
        InputError: the model is hosted or cannot be found, or `replicas` is less than 1.
    """

    spec: str
    replicas: int
    resources: Mapping[str, float] | None
    address: str | None
    _local: Any

    def __new__(
        cls, spec: str, *, replicas: int, resources: Mapping[str, float] | None = None, address: str | None = None
    ) -> Self:
        """Return an instance with the capabilities of the underlying model."""
        if not spec.startswith(_KINDS):
            raise InputError(f"{spec} is a hosted model, which cannot have replicas: use one of {', '.join(_KINDS)}")
        if replicas < 1:
            raise InputError(f"replicas must be 1 or more, not {replicas}")
        local = load_in_process(*spec.split(":", 1))
        mixins = tuple(mixin for protocol, mixin in _MIXINS if isinstance(local, protocol))
        model = object.__new__(cast("type[Self]", type(cls.__name__, (*mixins, cls), {})))
        model.spec, model.replicas, model.resources, model.address = spec, replicas, resources, address
        model._local = local
        return model

    def __repr__(self) -> str:
        return f"RayModel({self.spec!r}, replicas={self.replicas})"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The fingerprint that all replicas share; starts them."""
        return self._pool.fingerprint

    @property
    def unit(self) -> Unit:
        """Same as the underlying model's."""
        return self._model.unit

    @property
    def price(self) -> Price | None:
        """Same as the underlying model's."""
        return self._model.price

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        """Yield a reply to each request, as parts of the batch finish.

        Raises:
            FinalModelError: the model raised a permanent error, or no replica is left.
            InputError: a request is invalid for the model, or a replica cannot start.
        """
        requests = list(requests)
        reply_lengths = [_CHARACTERS_PER_TOKEN * request.max_tokens for request in requests]
        yield from self._replies(
            [request.context for request in requests],
            reply_lengths,
            lambda indices: Part(indices, "generate", ([requests[i] for i in indices],)),
        )

    def _replies(
        self, contexts: Sequence[Context], extra: Sequence[int] | None, make_part: Callable[[Sequence[int]], Part]
    ) -> Iterator[Arrival]:
        """Partition a batch, compute its parts, and yield the replies numbered as in the batch."""
        partitions = parts_of([_text(context) for context in contexts], self.replicas, extra)
        for part, replies in self._pool.run([make_part(indices) for indices in partitions]):
            if isinstance(replies, Failure):
                yield from (Arrival(index, replies) for index in part.indices)
            else:
                yield from (Arrival(part.indices[number], reply) for number, reply in replies)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(self.spec, self.replicas, self.resources, self.address)

    @property
    def _model(self) -> Model:
        model: Model = self._local
        return model


class _Labels(RayModel):
    """Replicas that score labels."""

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context a response with log p(label | context), as parts of the batch finish.

        Raises:
            FinalModelError: the model raised a permanent error, or no replica is left.
            InputError: a context is invalid for the model, or a replica cannot start.
        """
        contexts, labels = list(contexts), list(labels)
        yield from self._replies(
            contexts,
            None,
            lambda indices: Part(indices, "label_logprobs", ([contexts[i] for i in indices], labels)),
        )


class _Tokens(RayModel):
    """Replicas of a model with a tokenizer."""

    def pieces(self, text: str) -> list[str]:
        """Split `text` into the substrings of its tokens; they concatenate to `text`."""
        model: TokenModel = self._local
        return model.pieces(text)


class _Captions(RayModel):
    """Replicas of a model that scores captions of images."""

    captions: Literal[True] = True


_MIXINS: tuple[tuple[type, type[RayModel]], ...] = (
    (LabelModel, _Labels),
    (TokenModel, _Tokens),
    (CaptionModel, _Captions),
)


def parts_of(texts: Sequence[str], replicas: int, extra: Sequence[int] | None = None) -> list[list[int]]:
    """Partition a batch among replicas: several parts each for a large batch, fewer parts than replicas for a small one.

    The shared prefixes are those of characters, not tokens: they agree up to the last token, and tokenizing here takes
    about a hundred times as long, which would limit many replicas.

    Args:
        texts: [requests].
        replicas: number of replicas.
        extra: [requests], further characters of each, such as those of its reply.

    Returns:
        Indices of the requests in each part; requests with a shared prefix stay together.
    """
    ordered = sort_by_prefix(texts, extra)
    distinct = int(ordered.preceding[-1])
    # A whole number of rounds: in a partial last round most replicas would be idle.
    rounds = min(max(math.ceil(distinct / _MAX_PART / replicas), 1), _PARTS_PER_REPLICA)
    return partition(ordered, max(min(rounds * replicas, distinct // _MIN_PART), 1))


def _text(context: Context) -> str:
    """Return a context as one text, used only to partition the batch."""
    return context if isinstance(context, str) else "\n".join(text for turn in context for text in turn[:2])
