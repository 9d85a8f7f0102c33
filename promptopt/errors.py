"""Every error that promptopt raises on purpose, as one tree.

    PromptoptError
    ├── InputError (also a ValueError)        wrong data, settings or arguments; names the culprit and the fix
    │   ├── RewardError                       the user's reward raised or returned no finite number; ends a search cleanly
    │   └── MemoError                         the memo cannot be read or written; ends a search cleanly
    ├── MissingExtraError (also ImportError)  an optional dependency is not installed; gives the install command
    ├── BudgetExhaustedError                  the next call would exceed the budget; ends a search cleanly
    ├── StoppedError                          the user asked the run to stop (Ctrl-C); ends a search cleanly
    └── ModelError                            a model cannot be used; has status, endpoint, role and attempt where known
        ├── PermanentModelError               retrying cannot help: bad key, unknown model, exhausted quota, bad request
        └── TransientModelError               retrying may help: rate limit, server error, timeout, malformed reply

A reply that still fails after all retries is not an exception: it is a `Failure` value with a NaN score.

`FinalModelError` and `PassingModelError` are the former names of the last two.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from promptopt.utils.characters import printable

if TYPE_CHECKING:
    from collections.abc import Iterable


class PromptoptError(Exception):
    """Base of all errors raised on purpose. Messages are made safe to print: they may quote models, servers and data."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(PromptoptError, ValueError):
    """The user's input cannot be used; the message names the culprit, the value and the fix."""


class RewardError(InputError):
    """A reward raised, or did not return a finite number; the message names the reward, the example and the reply."""


class MemoError(InputError):
    """The memo is full, damaged, read-only or unreachable. Replies that could not be stored are saved to a file."""


class MissingExtraError(PromptoptError, ImportError):
    """An optional dependency is not installed; the message contains the install command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'promptopt-toolkit[{extra}]'")
        self._arguments = what, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """Pickle as constructor arguments: the default passes the message."""
        return type(self), self._arguments


class BudgetExhaustedError(PromptoptError):
    """The next call would exceed the budget, so it was not sent."""


STOPPED = "stopped by the user"
"""Reason why a run that Ctrl-C ended is unfinished."""


class StoppedError(PromptoptError):
    """The user asked the run to stop; replies received so far are kept."""


class ModelError(PromptoptError):
    """A model cannot be used.

    Args:
        message: what happened, and what to change.
        status: HTTP status of the endpoint's last answer; None if there was none.
        endpoint: base URL of the endpoint.
        role: role of the model in the run: "task", "writer" or "judge".
        attempt: number of attempts made at the request.

    All but the message are None where they are not known.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        endpoint: str | None = None,
        role: str | None = None,
        attempt: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.endpoint, self.role, self.attempt = status, endpoint, role, attempt


class PermanentModelError(ModelError):
    """Retrying cannot help; the run stops and the message says what to change."""


class TransientModelError(ModelError):
    """The call failed, but the same call may succeed later."""


FinalModelError = PermanentModelError
PassingModelError = TransientModelError


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the closest known name, or "" if none is close."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""
