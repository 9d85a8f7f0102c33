"""Applies a reward to one reply: a finite number and an explanation, or an error that names reward, example and reply.

Knows nothing of models or of how replies are obtained.
"""

from __future__ import annotations

import math
import reprlib
import traceback
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from promptopt.errors import InputError, RewardError
from promptopt.replies import Failure, Response
from promptopt.utils.characters import replace_surrogates

if TYPE_CHECKING:
    from promptopt.prompt import Example
    from promptopt.rewards import Reward

Verdict: TypeAlias = tuple[float, str]

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80  # characters of a reply or a value in a message


def verdict(reward: Reward, example: Example, reply: Response | Failure) -> Verdict:
    """Return (reward, explanation); for a failure, NaN and its reason.

    Raises:
        RewardError: the reward raised an exception, or did not return a finite number.
        InputError: raised by the reward itself, if it cannot be used with this example.
    """
    if isinstance(reply, Failure):
        return math.nan, reply.reason
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
    number = _number(value)
    if not math.isfinite(number):
        raise RewardError(
            f"{_call(reward, reply)} returned {_short.repr(value)} for example {example.id!r}: return a finite number, such "
            'as 0.0 or 1.0, or (number, "why")'
        )
    return number, replace_surrogates(str(why))


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
