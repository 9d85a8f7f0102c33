"""The failures of local models."""

from __future__ import annotations

from promptopt.replies import Failure

NAN_FAILURE = Failure("the model's predictions are not numbers (NaN): use a wider dtype")


def too_long(tokens: int, longest: int, name: str) -> Failure:
    """Return the failure of a sequence that is longer than the model supports."""
    return Failure(
        f"{tokens} tokens are more than the {longest} that {name} supports: shorten the prompt or the example"
    )
