"""How many replies hold no text, and why: counted as they are scored, and said in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptopt.replies import Response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from promptopt.replies import Failure

_CUT_OFF_SHARE = 0.01  # of replies that were cut off before any text, above which it is said
_SILENT_SHARE = 0.1  # of replies without text, from which it is said, and in the headline too


@dataclass(frozen=True, kw_only=True)
class Silence:
    """Replies, and those of them without any text.

    Args:
        replies: that came.
        cut_off: at their length limit, as happens to models that think first.
        empty: whole, but without text.
        filtered: declined, or emptied by a content filter.
    """

    replies: int = 0
    cut_off: int = 0
    empty: int = 0
    filtered: int = 0

    @classmethod
    def of(cls, replies: Iterable[Response | Failure]) -> Silence:
        """Count some replies; failures are none."""
        came = [reply for reply in replies if isinstance(reply, Response)]
        finishes = [reply.finish_reason for reply in came if not reply.text.strip()]
        return cls(
            replies=len(came),
            cut_off=finishes.count("length"),
            empty=finishes.count("stop"),
            filtered=finishes.count("refusal"),
        )

    def __add__(self, other: Silence) -> Silence:
        mine, theirs = vars(self), vars(other)
        return Silence(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def silent(self) -> int:
        """Replies without any text."""
        return self.cut_off + self.empty + self.filtered

    @property
    def mostly_silent(self) -> bool:
        """Whether so many replies hold no text that a mean over them says little of the prompt."""
        return self.silent > 0 and self.silent >= _SILENT_SHARE * self.replies

    @property
    def headline(self) -> str:
        """What must stand beside any mean over these replies, or ""."""
        return f"{self.silent:,} of {self.replies:,} replies hold no text." if self.mostly_silent else ""

    def notes(self, max_tokens: int) -> list[str]:
        """Return what to say of them, with what may help."""
        if not self.mostly_silent and self.cut_off <= _CUT_OFF_SHARE * self.replies:
            return []
        kinds = [
            (self.cut_off, f"cut off at {max_tokens} tokens, before any text (raise the task's max_tokens)"),
            (
                self.empty,
                "finished without any (the model may answer in reasoning_content alone, or a stop string ends its reply at once)",
            ),
            (self.filtered, "declined or emptied by a content filter (look at the items and the prompt)"),
        ]
        said = "; ".join(f"{count:,} {kind}" for count, kind in kinds if count)
        return [f"{self.silent:,} of {self.replies:,} replies hold no text: {said}"]
