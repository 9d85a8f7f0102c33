"""Asking a prompt writer for so many prompts, and again for those that were no use. Sees of a search only `Run`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from promptopt.search.writing.replies import MAX_CHARACTERS, parse_proposals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from promptopt.prompt import Context, Prompt
    from promptopt.search.run import Run

_AGAIN = 2  # times that what was rejected is asked for again
_FEW = 2  # rejected proposals that are not worth a note
_TOKENS = 512  # of a reply, at least
_MOST_TOKENS = 4_096
_CHARACTERS = 3  # of a token, on the low side, so that replies have room


class AskResult(NamedTuple):
    """What came of asking.

    Args:
        prompts: usable and new, as many as were asked for or fewer.
        rejected: proposals and whole replies that were no use, counted by reason.
    """

    prompts: list[Prompt]
    rejected: Counter[str]

    def facts(self) -> dict[str, float | str]:
        """Return what a step reports about it."""
        return {"new": len(self.prompts), "rejected": self.rejected.total(), "why": by_reason(self.rejected)}


def by_reason(rejected: Counter[str]) -> str:
    """Return counts in words, such as "copy 3, slots 1"."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items()))


def rejections(proposed: Counter[str]) -> str:
    """Return a note on a run's proposals where most of them were rejected, else "".

    Args:
        proposed: proposals by reason, as `Run.proposed`.
    """
    rejected = Counter({reason: count for reason, count in proposed.items() if reason != "usable"})
    if rejected.total() <= max(proposed["usable"], _FEW):
        return ""
    return (
        f"most of the writer's proposals could not be used: {rejected.total()} of {proposed.total()} were rejected "
        f"({by_reason(rejected)}); a more capable --writer may find more"
    )


def ask(
    run: Run,
    message: Callable[[int], Context],
    count: int,
    *,
    each: int,
    like: Prompt,
    known: Iterable[Prompt] = (),
    longest: int = MAX_CHARACTERS,
) -> AskResult:
    """Ask for `count` prompts, and at most twice again for as many as were rejected.

    A writer that gives fewer than it was asked for is not asked again for the rest; more are left out.

    Args:
        run: whose writer is asked.
        message: the message that asks for so many prompts.
        count: prompts wanted.
        each: of them in one message.
        like: the prompt that gives the demonstrations and the slots to keep.
        known: prompts that are no news.
        longest: characters of a prompt.

    Raises:
        BudgetExhaustedError: as `Run.write`.
    """
    known = list(known)
    out = AskResult([], Counter())
    missing = count
    for _ in range(1 + _AGAIN):
        size = min(each, missing)
        lost = Counter(run.unusable)
        tokens = min(_MOST_TOKENS, max(_TOKENS, size * (2 * len(like.text) // _CHARACTERS + 64)))
        replies = run.write(message(size), count=-(-missing // size), max_tokens=tokens)
        parsed = parse_proposals(run.task, replies, like, [*known, *out.prompts], longest)
        lost = run.unusable - lost
        out.rejected.update(parsed.rejected + lost)
        run.proposed.update(parsed.rejected + lost)
        run.proposed["usable"] += len(parsed.prompts)
        out.prompts.extend(parsed.prompts[:missing])
        missing = min(count - len(out.prompts), parsed.rejected.total() + size * lost.total())
        if not missing:
            break
    return out
