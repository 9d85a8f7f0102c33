"""Every error that promptopt raises on purpose, drawn as one tree.

    PromptoptError
    ├── InputError (also a ValueError)        the user's data, settings or arguments; says the culprit and the mend
    │   ├── RewardError                       the user's reward raised, or returned no number; ends a search in good order
    │   └── MemoError                         the memo can be read or written no more; ends a search in good order
    ├── MissingExtraError (also ImportError)  an optional part is not installed; says the install command
    ├── BudgetExhaustedError                  the next call would overstep the budget; ends a search in good order
    ├── StoppedError                          the user asked the run to end (Ctrl-C); ends a search in good order
    └── ModelError                            a model could not be used
        ├── FinalModelError                   trying again cannot help: bad key, unknown model, quota spent, bad request
        └── PassingModelError                 trying again may help: rate limit, server error, timeout, broken reply

A reply that failed after all retries is no exception: it is a `Failure` value beside a NaN score.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from promptopt.utils.characters import printable

if TYPE_CHECKING:
    from collections.abc import Iterable


class PromptoptError(Exception):
    """Base of all errors raised on purpose; their words may quote models, servers and data."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(PromptoptError, ValueError):
    """Something the user gave cannot be used; the message names the culprit, the value and the mend."""


class RewardError(InputError):
    """A reward raised, or returned what is no finite number; the message names the reward, the item and the reply."""


class MemoError(InputError):
    """The memo is full, broken, read-only or unreachable; names it and the fix. Replies that had arrived are kept in a file."""


class MissingExtraError(PromptoptError, ImportError):
    """An optional part is not installed; the message holds the install command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'promptopt-toolkit[{extra}]'")


class BudgetExhaustedError(PromptoptError):
    """The next call would overstep the budget; nothing of it was sent."""


class StoppedError(PromptoptError):
    """The user asked the run to end; what had arrived is kept."""


class ModelError(PromptoptError):
    """A model could not be used."""


class FinalModelError(ModelError):
    """The model refuses for good; the run stops and the message says what to change."""


class PassingModelError(ModelError):
    """The model failed this time; the same call may succeed later."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the closest known name, or "" when none is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""
