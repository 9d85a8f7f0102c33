"""What the contestants' scripts share: the scale of tokens, and a prompt with its contestant's own measurement.

Standard library only, because it also runs in the peers' environments.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKENS = 250
"""Tokens a reply, request included, that are worth nothing: a reply's `brevity` is 0 there, and so is the area of a front."""


def brevity(tokens: float) -> float:
    """Return the share of `TOKENS` that a reply saves: the second objective, from 1 downwards, higher is better."""
    return 1 - tokens / TOKENS


def point(prompt: Mapping[str, Any], reward: float, saved: float) -> dict[str, Any]:
    """Return a prompt with its contestant's own means of reward and brevity; None where it has none."""
    own = [None if math.isnan(value) else value for value in (reward, saved)]
    return {"prompt": prompt, "own": own}
