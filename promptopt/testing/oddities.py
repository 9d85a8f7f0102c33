"""What all contract tests need: texts that nobody expects, and what must stay untouched."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator

ODD_TEXTS = (
    "",
    " \n",
    "null",
    "{",
    "{}}{",
    "[1, 2]",
    '{"a": ' * 100,
    "I do not know.",
    "yes or no",
    "1e999 and -0.0 and ¾ and 12,34",
    "\\boxed{",
    "zwölf 🙂 \u202e",
    "\x00",
    "\ud800",
    "word " * 1_000,
)
"""Replies that a model may give, the last but one of them half of a surrogate pair."""


@contextmanager
def untouched_randomness(culprit: str) -> Generator[None]:
    """Check that the global random numbers of Python and numpy are not used.

    Raises:
        AssertionError: they are.
    """
    before = random.getstate(), _numpy_state()
    yield
    if (random.getstate(), _numpy_state()) != before:
        raise AssertionError(
            f"{culprit} draws from the global random numbers, which the seed of a run does not control"
        )


def _numpy_state() -> str:
    return repr(np.random.get_state(legacy=False))  # noqa: NPY002  the global state is what is looked at
