"""Text generation: one token at a time for all rows of a batch.

Finished rows leave the batch, and new ones may join it at any step. The network is behind `DecodingBatch` and `Head`; `sampling` chooses tokens from logits.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from promptopt.models.local.failures import NAN_FAILURE
from promptopt.models.local.likeliest import Likeliest, likeliest_tokens
from promptopt.models.local.sampling import choose
from promptopt.randomness import named_generator
from promptopt.replies import Arrival, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import numpy as np

    from promptopt.models.base import Request
    from promptopt.replies import Failure, Finish

# Results of overflow in a narrow dtype; a token chosen from NaN logits must not end up as a score.
_REPLACEMENT = "\ufffd"  # decoded from an incomplete UTF-8 sequence, whose last bytes are in a later token


class DecodingBatch(Protocol):
    """Sequences in a network that grow by one token at a time; shared prefixes are stored once."""

    def start(self, prompts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Add rows after the others; return the hidden state at each prompt's last token, [rows, hidden]."""
        ...

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append a token to every row, in row order; return its hidden states, [rows, hidden]."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows: ascending indices into the current ones."""
        ...


class Head(Protocol):
    """A network's output layer."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits [rows, vocabulary], float32, for hidden states [rows, hidden]."""
        ...


class Written(NamedTuple):
    """A finished row.

    Args:
        number: of the row.
        reply: its text.
        tokens: all its tokens but the one that ends a reply.
        likeliest: what was likeliest at each of these tokens, if that was requested.
    """

    number: int
    reply: Response | Failure
    tokens: tuple[int, ...]
    likeliest: tuple[Likeliest, ...] = ()


def decode(
    requests: Sequence[Request],
    prompts: Sequence[tuple[int, ...]],
    *,
    batch: DecodingBatch,
    head: Head,
    ends: frozenset[int],
    tokenizer: Any,
) -> Iterator[Arrival]:
    """Generate the replies to one batch; yield each, numbered by its index in the batch, as soon as it is finished.

    Takes the arguments of `Decoding` and its `add`.
    """
    decoding = Decoding(batch, head, ends, tokenizer)
    decoding.add(requests, prompts)
    while len(decoding):
        yield from (Arrival(row.number, row.reply) for row in decoding.step())


class Decoding:
    """Replies in progress, which grow by one token per step.

    A row's random numbers depend only on its prompt, sampling settings and replicate. So a sample does not depend on the
    rest of the batch beyond rounding, and a longer reply begins like a shorter one.

    Args:
        batch: runs the network over the rows; empty.
        head: turns hidden states into logits.
        ends: tokens that end a reply and are not part of it.
        tokenizer: decodes tokens into text.
    """

    def __init__(self, batch: DecodingBatch, head: Head, ends: frozenset[int], tokenizer: Any) -> None:
        self._batch = batch
        self._head = head
        self._ends = ends
        self._tokenizer = tokenizer
        self._rows: list[_Row] = []
        self._count = 0  # rows so far
        self._hidden: torch.Tensor | None = None  # [rows, hidden], from which the next tokens are chosen

    def __len__(self) -> int:
        """Return the number of unfinished rows."""
        return len(self._rows)

    @torch.inference_mode()
    def add(
        self,
        requests: Sequence[Request],
        prompts: Sequence[tuple[int, ...]],
        likeliest: Sequence[int | None] = (),
    ) -> range:
        """Add rows and run their prompts; return their numbers, which count up from 0.

        Args:
            requests: [rows].
            prompts: [rows], their tokens, at least one each.
            likeliest: [rows], how many likeliest tokens to record at each token of the reply, None for no record; by default
                none is recorded.
        """
        numbers = range(self._count, self._count + len(requests))
        rows = zip(numbers, requests, prompts, likeliest or [None] * len(requests), strict=True)
        self._advance()
        hidden = self._batch.start(prompts)
        self._hidden = hidden if self._hidden is None else torch.cat([self._hidden, hidden])
        self._rows += [_Row(number, request, prompt, self._tokenizer, top) for number, request, prompt, top in rows]
        self._count = numbers.stop
        return numbers

    @torch.inference_mode()
    def step(self) -> list[Written]:
        """Choose the next token of every row; return the rows that this finishes."""
        self._advance()
        logits, self._hidden = self._head.logits(torch.as_tensor(self._hidden)), None
        tokens, nan_rows = _next_tokens(logits, self._rows), logits.isnan().any(dim=1).tolist()
        _record(logits, self._rows, tokens)
        replies = [
            NAN_FAILURE if is_nan else row.append(token, self._ends)
            for row, token, is_nan in zip(self._rows, tokens, nan_rows, strict=True)
        ]
        written = [row.written(reply) for row, reply in zip(self._rows, replies, strict=True) if reply is not None]
        self._keep([i for i, reply in enumerate(replies) if reply is None])
        return written

    def drop(self, numbers: Collection[int]) -> None:
        """Drop unfinished rows."""
        self._advance()
        kept = [i for i, row in enumerate(self._rows) if row.number not in numbers]
        self._hidden = None if self._hidden is None else self._hidden[kept]
        self._keep(kept)

    @torch.inference_mode()
    def _advance(self) -> None:
        """Run the network over the tokens that were chosen last."""
        if self._rows and self._hidden is None:
            self._hidden = self._batch.append([row.tokens[-1] for row in self._rows])

    def _keep(self, rows: Sequence[int]) -> None:
        if rows and len(rows) < len(self._rows):
            self._batch.keep(rows)
        self._rows = [self._rows[i] for i in rows]


def one_token_reply(
    request: Request, prompt: tuple[int, ...], token: int, ends: frozenset[int], tokenizer: Any
) -> Response:
    """Return the reply of a single token that is known to follow the prompt.

    Args:
        request: with a `max_tokens` of 1.
        prompt: its tokens.
        token: the next one.
        ends: tokens that end a reply.
        tokenizer: decodes tokens into text.
    """
    reply = _Row(0, request, prompt, tokenizer).append(token, ends)
    if reply is None:
        raise ValueError(f"a reply of up to {request.max_tokens} tokens does not end with its first")
    return reply


def _next_tokens(logits: torch.Tensor, rows: Sequence[_Row]) -> list[int]:
    requests = [row.request for row in rows]
    chosen = choose(
        logits,
        torch.tensor([request.temperature for request in requests], dtype=torch.float64),
        torch.tensor([request.top_p for request in requests], dtype=torch.float64),
        torch.tensor([request.top_k for request in requests], dtype=torch.int64),
        torch.tensor([row.generator.random() for row in rows], dtype=torch.float64),
    )
    return [int(token) for token in chosen.tolist()]


def _record(logits: torch.Tensor, rows: Sequence[_Row], tokens: Sequence[int]) -> None:
    """Record the likeliest tokens for the rows that ask for them."""
    asking = [i for i, row in enumerate(rows) if row.top is not None]
    if not asking:
        return
    count = max(1, *(rows[i].top or 0 for i in asking))
    chosen = torch.tensor([tokens[i] for i in asking], device=logits.device)
    found = likeliest_tokens(logits[asking], count)
    logprobs = found.logprobs_of(torch.arange(len(asking), device=logits.device), chosen).tolist()
    for i, logprob, ids, values in zip(asking, logprobs, found.tokens.tolist(), found.logprobs.tolist(), strict=True):
        rows[i].likeliest.append(Likeliest(logprob, tuple(ids[: rows[i].top]), tuple(values[: rows[i].top])))


class _Row:
    """A reply in progress."""

    def __init__(
        self, number: int, request: Request, prompt: tuple[int, ...], tokenizer: Any, top: int | None = None
    ) -> None:
        self.number = number
        self.request = request
        self.top = top
        self.tokens: list[int] = []
        self.likeliest: list[Likeliest] = []
        self.generator = _generator(request, prompt)
        self._prompt_tokens = len(prompt)
        self._tokenizer = tokenizer
        self._tail = _Tail(request.stop)

    def append(self, token: int, ends: frozenset[int]) -> Response | None:
        """Append a token; return the reply if that finishes it."""
        if token in ends:
            return self._reply("stop")
        self.tokens.append(token)
        full = len(self.tokens) >= self.request.max_tokens
        if not full and not self._tail.shows_stop(self.tokens, self._tokenizer):
            return None
        reply = self._reply("length")
        # The tail alone may decode differently than within the full reply; the full reply decides.
        return reply if full or reply.finish_reason == "stop" else None

    def written(self, reply: Response | Failure) -> Written:
        """Return the row with its reply."""
        return Written(self.number, reply, tuple(self.tokens), tuple(self.likeliest[: len(self.tokens)]))

    def _reply(self, finish: Finish) -> Response:
        """Return the reply so far, up to the first stop string if there is one."""
        text = _text(self._tokenizer, self.tokens)
        stop_positions = [text.find(stop) for stop in self.request.stop if stop in text]
        usage = Usage(input=self._prompt_tokens, output=len(self.tokens))
        if stop_positions:
            return Response(text[: min(stop_positions)], usage=usage, finish_reason="stop")
        return Response(text, usage=usage, finish_reason=finish)


class _Mark(NamedTuple):
    """A position in a reply where a token and a character end together: its offsets in tokens and in characters."""

    token: int
    char: int


class _Tail:
    """Finds stop strings at the end of a growing reply, by decoding only the last tokens that one could span."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max([1, *map(len, stops)])
        self._marks = deque(
            [_Mark(0, 0)]
        )  # the first is the start of the tail, the others are candidates for a later start

    def shows_stop(self, tokens: Sequence[int], tokenizer: Any) -> bool:
        """Whether the tail contains a stop string; must be called after each token."""
        if not self._stops:
            return False
        start = self._marks[0]
        text = _text(tokenizer, tokens[start.token :])
        if not text.endswith(_REPLACEMENT):
            self._advance(_Mark(len(tokens), start.char + len(text)))
        return any(stop in text for stop in self._stops)

    def _advance(self, end: _Mark) -> None:
        """Move the start of the tail as late as possible for a stop string that the next token completes.

        Such a string began at most its length minus one character ago. One more character is kept because some tokenizers
        drop a leading space.
        """
        self._marks.append(end)
        while end.char - self._marks[1].char >= self._longest:
            self._marks.popleft()


def _text(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def _generator(request: Request, prompt: tuple[int, ...]) -> np.random.Generator:
    seed_key = [list(prompt), float(request.temperature), float(request.top_p), int(request.top_k)]
    return named_generator(request.replicate, json.dumps(seed_key))
