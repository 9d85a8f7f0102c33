"""Counts replies without text, by cause, and reports them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptopt.replies import Response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from promptopt.replies import Failure

_MAX_CUT_OFF_SHARE = 0.01  # report truncated replies above this share
_SILENT_SHARE = 0.1  # report replies without text from this share on, in the headline too


@dataclass(frozen=True, kw_only=True)
class Silence:
    """Counts of replies without text.

    Args:
        replies: all replies, without failures.
        cut_off: empty replies that reached the length limit, as happens to reasoning models.
        empty: complete replies without text.
        filtered: replies that were declined, or emptied by a content filter.
    """

    replies: int = 0
    cut_off: int = 0
    empty: int = 0
    filtered: int = 0

    @classmethod
    def of(cls, replies: Iterable[Response | Failure]) -> Silence:
        """Count replies; failures are ignored."""
        responses = [reply for reply in replies if isinstance(reply, Response)]
        finishes = [reply.finish_reason for reply in responses if not reply.text.strip()]
        return cls(
            replies=len(responses),
            cut_off=finishes.count("length"),
            empty=finishes.count("stop"),
            filtered=finishes.count("refusal"),
        )

    def __add__(self, other: Silence) -> Silence:
        mine, theirs = vars(self), vars(other)
        return Silence(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def silent(self) -> int:
        """Number of replies without text."""
        return self.cut_off + self.empty + self.filtered

    @property
    def mostly_silent(self) -> bool:
        """Whether so many replies have no text that their mean reward says little about the prompt."""
        return self.silent > 0 and self.silent >= _SILENT_SHARE * self.replies

    @property
    def headline(self) -> str:
        """The caveat for a mean over these replies, or ""."""
        return f"{self.silent:,} of {self.replies:,} replies hold no text." if self.mostly_silent else ""

    def notes(self, max_tokens: int) -> list[str]:
        """Return notes on these replies, with possible fixes."""
        if not self.mostly_silent and self.cut_off <= _MAX_CUT_OFF_SHARE * self.replies:
            return []
        kinds = [
            (self.cut_off, f"cut off at {max_tokens} tokens, before any text (raise the task's max_tokens)"),
            (
                self.empty,
                "finished without any (the model may answer in reasoning_content alone, or a stop string ends its reply at once)",
            ),
            (self.filtered, "declined or emptied by a content filter (look at the items and the prompt)"),
        ]
        causes = "; ".join(f"{count:,} {kind}" for count, kind in kinds if count)
        return [f"{self.silent:,} of {self.replies:,} replies hold no text: {causes}"]
