"""A reward's verdict on one reply: a finite number and its words, or an error that names reward, item and reply.

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
    """Return (reward, the reward's words); NaN and the reason for a failure.

    Raises:
        RewardError: the reward raised, or returned what is no finite number.
        InputError: the reward cannot be used with this item, in its own words.
    """
    if isinstance(reply, Failure):
        return math.nan, reply.reason
    try:
        given: Any = reward(example, reply)
    except InputError:
        raise
    except Exception as error:
        raise RewardError(
            f"{_call(reward, reply)} raised {type(error).__name__} ({error}) for example {example.id!r}{_line(error)}: let it "
            "return a number for every reply"
        ) from error
    value, why = given if isinstance(given, tuple) and len(given) == 2 else (given, "")  # noqa: PLR2004  a pair
    number = _number(value)
    if not math.isfinite(number):
        raise RewardError(
            f"{_call(reward, reply)} returned {_short.repr(value)} for example {example.id!r}: return a finite number, such "
            'as 0.0 or 1.0, or (number, "why")'
        )
    return number, replace_surrogates(str(why))


def _number(value: Any) -> float:
    """Return a number as float; NaN for what is none."""
    if isinstance(value, np.ndarray) and not value.shape:
        value = value.item()
    if not isinstance(value, Real | np.bool_):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of 400 digits
        return math.nan


def _call(reward: Reward, reply: Response) -> str:
    name = getattr(reward, "__qualname__", None) or _short.repr(reward)
    return f"the reward {name}, given the reply {_short.repr(reply.text)},"


def _line(error: Exception) -> str:
    """Return where in the user's code it was raised, as far as that is known."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the call above
    return f", in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
