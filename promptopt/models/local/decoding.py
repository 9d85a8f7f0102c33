"""Text generation: one token at a time for all rows of a batch, until each has its reply.

Rows that are finished leave the batch. Knows nothing of how a network computes (`Continued` and `Head` do), nor of how
a token is chosen from logits (`sampling` does).
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from promptopt.models.local.sampling import choose
from promptopt.randomness import named_generator
from promptopt.replies import Arrival, Failure, Response, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from promptopt.models.base import Request
    from promptopt.replies import Finish

# What narrow floating-point numbers that overflow come to; a token chosen from them would be a score in the end.
NO_NUMBERS = Failure("the model's predictions are no numbers: use a wider dtype")
_REPLACEMENT = "\ufffd"  # what tokenizers write for bytes that are no whole character, as before its last token


class Continued(Protocol):
    """Sequences in a network that grow by one token at a time; starts that several share are kept once."""

    def start(self, prompts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Return the hidden state at each prompt's last token, [rows, hidden]."""
        ...

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add a token to every row, in row order; return the hidden states there, [rows, hidden]."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only: indices into the present ones, ascending."""
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
    continued: Continued,
    head: Head,
    ends: frozenset[int],
    tokenizer: Any,
) -> Iterator[Arrival]:
    """Write the replies to one batch; yield each, with its place in the batch, in the step that finishes it.

    A row's random numbers follow from its prompt, its sampling settings and its replicate alone, so that a sample does
    not depend on the rest of the batch beyond rounding, and a longer reply begins as a shorter one.

    Args:
        requests: what is wanted.
        prompts: their tokens, at least one each.
        continued: runs the network over the rows.
        head: turns its hidden states into logits.
        ends: tokens that end a reply and are no part of it.
        tokenizer: turns tokens into text.
    """
    numbered = enumerate(zip(requests, prompts, strict=True))
    rows = [_Row(number, request, prompt, tokenizer) for number, (request, prompt) in numbered]
    hidden = continued.start(prompts)
    while True:
        logits = head.logits(hidden)
        tokens, broken = _next_tokens(logits, rows), logits.isnan().any(dim=1).tolist()
        replies = [
            NO_NUMBERS if bad else row.take(token, ends) for row, token, bad in zip(rows, tokens, broken, strict=True)
        ]
        yield from (Arrival(row.number, reply) for row, reply in zip(rows, replies, strict=True) if reply is not None)
        going = [i for i, reply in enumerate(replies) if reply is None]
        if not going:
            return
        if len(going) < len(rows):
            continued.keep(going)
            rows = [rows[i] for i in going]
        hidden = continued.append([row.tokens[-1] for row in rows])


def _next_tokens(logits: torch.Tensor, rows: Sequence[_Row]) -> list[int]:
    asked = [row.request for row in rows]
    chosen = choose(
        logits,
        torch.tensor([request.temperature for request in asked], dtype=torch.float64),
        torch.tensor([request.top_p for request in asked], dtype=torch.float64),
        torch.tensor([request.top_k for request in asked], dtype=torch.int64),
        torch.tensor([row.generator.random() for row in rows], dtype=torch.float64),
    )
    return [int(token) for token in chosen.tolist()]


class _Row:
    """A reply while it is written."""

    def __init__(self, number: int, request: Request, prompt: tuple[int, ...], tokenizer: Any) -> None:
        self.number = number
        self.request = request
        self.tokens: list[int] = []
        self.generator = _generator(request, prompt)
        self._prompt_tokens = len(prompt)
        self._tokenizer = tokenizer
        self._tail = _Tail(request.stop)

    def take(self, token: int, ends: frozenset[int]) -> Response | None:
        """Add a token; return the reply where that finishes it."""
        if token in ends:
            return self._reply("stop")
        self.tokens.append(token)
        full = len(self.tokens) >= self.request.max_tokens
        if not full and not self._tail.shows_stop(self.tokens, self._tokenizer):
            return None
        reply = self._reply("length")
        # The tail alone may read otherwise than as a part of the whole, which decides.
        return reply if full or reply.finish_reason == "stop" else None

    def _reply(self, finish: Finish) -> Response:
        """Return the reply so far: up to the first stop string, or where there is none, all of it."""
        text = _text(self._tokenizer, self.tokens)
        places = [text.find(stop) for stop in self.request.stop if stop in text]
        usage = Usage(input=self._prompt_tokens, output=len(self.tokens))
        if places:
            return Response(text[: min(places)], usage=usage, finish_reason="stop")
        return Response(text, usage=usage, finish_reason=finish)


class _Mark(NamedTuple):
    """A place in a reply where a token and a character end together, in tokens and in characters from its beginning."""

    token: int
    char: int


class _Tail:
    """Looks for stop strings in the end of a growing reply: the last tokens that one could reach into."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max([1, *map(len, stops)])
        self._marks = deque([_Mark(0, 0)])  # the first is where the tail begins, the others where a later one may

    def shows_stop(self, tokens: Sequence[int], tokenizer: Any) -> bool:
        """Whether the tail holds a stop string; to be asked after each token."""
        if not self._stops:
            return False
        start = self._marks[0]
        text = _text(tokenizer, tokens[start.token :])
        if not text.endswith(_REPLACEMENT):
            self._move(_Mark(len(tokens), start.char + len(text)))
        return any(stop in text for stop in self._stops)

    def _move(self, end: _Mark) -> None:
        """Begin the next tail as late as a stop string that the next token completes may begin.

        That is one character less than the longest has. One more is left, for some tokenizers drop the space that a
        text begins with.
        """
        self._marks.append(end)
        while end.char - self._marks[1].char >= self._longest:
            self._marks.popleft()


def _text(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def _generator(request: Request, prompt: tuple[int, ...]) -> np.random.Generator:
    drawn_by = [list(prompt), float(request.temperature), float(request.top_p), int(request.top_k)]
    return named_generator(request.replicate, json.dumps(drawn_by))
