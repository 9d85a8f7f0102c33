"""Text generation: one token at a time for all rows of a batch.

Finished rows leave the batch. The network is behind `DecodingBatch` and `Head`; `sampling` chooses tokens from logits.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from promptopt.models.local.failures import NAN_FAILURE
from promptopt.models.local.sampling import choose
from promptopt.randomness import named_generator
from promptopt.replies import Arrival, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from promptopt.models.base import Request
    from promptopt.replies import Finish

# Results of overflow in a narrow dtype; a token chosen from NaN logits must not end up as a score.
_REPLACEMENT = "\ufffd"  # decoded from an incomplete UTF-8 sequence, whose last bytes are in a later token


class DecodingBatch(Protocol):
    """Sequences in a network that grow by one token at a time; shared prefixes are stored once."""

    def start(self, prompts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Return the hidden state at each prompt's last token, [rows, hidden]."""
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


@torch.inference_mode()
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

    A row's random numbers depend only on its prompt, sampling settings and replicate. So a sample does not depend on the
    rest of the batch beyond rounding, and a longer reply begins like a shorter one.

    Args:
        requests: [rows].
        prompts: [rows], their tokens, at least one each.
        batch: runs the network over the rows.
        head: turns hidden states into logits.
        ends: tokens that end a reply and are not part of it.
        tokenizer: decodes tokens into text.
    """
    numbered = enumerate(zip(requests, prompts, strict=True))
    rows = [_Row(number, request, prompt, tokenizer) for number, (request, prompt) in numbered]
    hidden = batch.start(prompts)
    while True:
        logits = head.logits(hidden)
        tokens, nan_rows = _next_tokens(logits, rows), logits.isnan().any(dim=1).tolist()
        replies = [
            NAN_FAILURE if is_nan else row.append(token, ends)
            for row, token, is_nan in zip(rows, tokens, nan_rows, strict=True)
        ]
        yield from (Arrival(row.number, reply) for row, reply in zip(rows, replies, strict=True) if reply is not None)
        unfinished = [i for i, reply in enumerate(replies) if reply is None]
        if not unfinished:
            return
        if len(unfinished) < len(rows):
            batch.keep(unfinished)
            rows = [rows[i] for i in unfinished]
        hidden = batch.append([row.tokens[-1] for row in rows])


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


class _Row:
    """A reply in progress."""

    def __init__(self, number: int, request: Request, prompt: tuple[int, ...], tokenizer: Any) -> None:
        self.number = number
        self.request = request
        self.tokens: list[int] = []
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
