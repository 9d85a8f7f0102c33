"""Objectives beside the reward, measured from replies: tokens, dollars, and further numbers of a reward, by name.

Everything here follows from the replies alone, so a replay measures the same. That is why the time that a reply took is no objective.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from promptopt.errors import RewardError
from promptopt.replies import Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.base import Price
    from promptopt.replies import Reply
    from promptopt.scores import Scores
    from promptopt.statistics.arrays import Floats

REWARD = "reward"
COSTS = ("tokens", "dollars")
"""Objectives for which lower is better: tokens of a reply and its prompt, and dollars per thousand replies of the task model."""

_REPLIES = 1000  # that `dollars` is for


def signs(names: Sequence[str]) -> Floats:
    """Return [K] -1 for costs and 1 for other objectives: values times these are better the higher they are."""
    return np.array([-1.0 if name in COSTS else 1.0 for name in names])


def measure(scores: Scores, names: Sequence[str], price: Price | None) -> Floats:
    """Return the objectives of scored replies, [K, P, E, R]; NaN where there is no reply.

    Args:
        scores: by the task's reward.
        names: [K] "reward", "tokens", "dollars", or a number that the reward returns.
        price: of the task model.

    Raises:
        RewardError: the reward did not return a number of that name for a reply.
    """
    return np.array([_layer(scores, name, price) for name in names]).reshape(len(names), *scores.rewards.shape)


def _layer(scores: Scores, name: str, price: Price | None) -> Floats:
    if name == REWARD:
        return scores.rewards
    if name in COSTS:
        cells = [[[_cost(reply, name, price) for reply in cell] for cell in row] for row in scores.replies]
        return np.array(cells, dtype=np.float64)
    values = scores.named.get(name, np.full(scores.rewards.shape, np.nan))
    lacking = np.argwhere(np.isnan(values) & ~np.isnan(scores.rewards))
    if lacking.size:
        _, e, _ = lacking[0].tolist()
        raise RewardError(
            f"the reward returned no number {name!r} for example {scores.examples[e].id!r}, which is an objective: return "
            f"{{'reward': ..., {name!r}: ...}} for every reply"
        )
    return values


def _cost(reply: Reply, name: str, price: Price | None) -> float:
    if not isinstance(reply, Response):
        return math.nan
    if name == "tokens":
        return float(reply.usage.total)
    return math.nan if price is None else _REPLIES * price.of(reply.usage)
