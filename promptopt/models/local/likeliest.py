"""The likeliest next tokens with their log-probabilities, from logits. Knows nothing of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Likeliest(NamedTuple):
    """The likeliest alternatives to one token of a reply.

    Args:
        logprob: of the token itself, natural log p(token | preceding tokens), before temperature, top-k and top-p.
        tokens: the likeliest ones, in descending order.
        logprobs: theirs.
    """

    logprob: float
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class NextTokens:
    """The likeliest tokens after several contexts.

    Args:
        tokens: int64 [contexts, count], in descending order of probability.
        logprobs: float32 [contexts, count].
        logits: float32 [contexts, vocabulary].
        normalizers: float32 [contexts].
    """

    tokens: torch.Tensor
    logprobs: torch.Tensor
    logits: torch.Tensor
    normalizers: torch.Tensor

    def logprobs_of(self, contexts: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return log p(tokens[i] | contexts[i]), [pairs]."""
        return (self.logits[contexts, tokens] - self.normalizers[contexts]).clamp_(max=0)


def likeliest_tokens(logits: torch.Tensor, count: int) -> NextTokens:
    """Return the `count` likeliest tokens after each context; equal ones in any order, but for a count of 1 the lowest.

    Args:
        logits: float32 [contexts, vocabulary].
        count: 1 or more.
    """
    normalizers = logits.logsumexp(-1)
    tokens = logits.argmax(-1, keepdim=True) if count == 1 else logits.topk(count).indices
    logprobs = (logits.gather(1, tokens) - normalizers[:, None]).clamp_(max=0)
    return NextTokens(tokens, logprobs, logits, normalizers)
