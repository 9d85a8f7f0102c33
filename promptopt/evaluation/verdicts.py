"""Applies a reward to one reply: finite numbers and an explanation, or an error that names reward, example and reply.

Knows nothing of models or of how replies are obtained.
"""

from __future__ import annotations

import math
import reprlib
import traceback
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from promptopt.errors import InputError, RewardError
from promptopt.evaluation.objectives import COSTS, REWARD
from promptopt.replies import Failure, Response
from promptopt.utils.characters import replace_surrogates

if TYPE_CHECKING:
    from promptopt.prompt import Example
    from promptopt.rewards import Reward

_NOTHING: Mapping[str, float] = {}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80  # characters of a reply or a value in a message


class Verdict(NamedTuple):
    """What a reward says of one reply.

    Args:
        reward: a finite number; NaN without a reply.
        reason: the explanation, or why there is no reply.
        named: further numbers, by name.
    """

    reward: float
    reason: str = ""
    named: Mapping[str, float] = _NOTHING


def verdict(reward: Reward, example: Example, reply: Response | Failure) -> Verdict:
    """Return what a reward says of a reply; for a failure, NaN and its reason.

    Raises:
        RewardError: the reward raised an exception, or did not return finite numbers.
        InputError: raised by the reward itself, if it cannot be used with this example.
    """
    if isinstance(reply, Failure):
        return Verdict(math.nan, reply.reason)
    try:
        returned: Any = reward(example, reply)
    except InputError:
        raise
    except Exception as error:
        raise RewardError(
            f"{_call(reward, reply)} raised {type(error).__name__} ({error}) for example {example.id!r}{_line(error)}: let it "
            "return a number for every reply"
        ) from error
    value, why = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, "")  # noqa: PLR2004  a pair
    named = {str(name): _number(part) for name, part in value.items()} if isinstance(value, Mapping) else {}
    number = named.pop(REWARD, math.nan) if isinstance(value, Mapping) else _number(value)
    if not all(map(math.isfinite, (number, *named.values()))):
        raise RewardError(
            f"{_call(reward, reply)} returned {_short.repr(value)} for example {example.id!r}: return a finite number, such "
            'as 0.0 or 1.0, or (number, "why"), or several numbers by name, {"reward": 1.0, "brevity": 0.5}'
        )
    taken = next((name for name in named if name in COSTS), None)
    if taken is not None:
        raise RewardError(
            f"{_call(reward, reply)} returned a number named {taken!r}, which promptopt measures itself: rename it"
        )
    return Verdict(number, replace_surrogates(str(why)), named)


def _number(value: Any) -> float:
    """Return a number as a float; NaN for anything else."""
    if isinstance(value, np.ndarray) and not value.shape:
        value = value.item()
    if not isinstance(value, Real | np.bool_):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer of 400 digits
        return math.nan


def _call(reward: Reward, reply: Response) -> str:
    name = getattr(reward, "__qualname__", None) or _short.repr(reward)
    return f"the reward {name}, given the reply {_short.repr(reply.text)},"


def _line(error: Exception) -> str:
    """Return the place in the user's code that raised the error, or ""."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the call above
    return f", in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
