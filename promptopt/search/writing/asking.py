"""Asks a prompt writer for a number of prompts, and again for rejected ones. Depends on the search only through `Run`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from promptopt.evaluation.ledger import Spending
from promptopt.search.writing.messages import example_result
from promptopt.search.writing.replies import MAX_CHARACTERS, parse_proposals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np

    from promptopt.prompt import Context, Example, Prompt
    from promptopt.search.run import Run
    from promptopt.search.writing.messages import ExampleResult
    from promptopt.statistics.arrays import Floats

_NOTHING_SPENT = Spending()
_IN_WORDS = {
    "answer": "answering the prompt instead of rewriting it",
    "copy": "identical to a known prompt",
    "cut off": "cut off at the length limit",
    "declined": "declined by the writer",
    "failed": "without a reply",
    "message": "copying an item of the message",
    "slots": "with other slots than the prompt",
    "training text": "with text of a training example",
}
"""Reasons of `parse_proposals` and `Run.unusable`, after a count; others read well as they are."""

_MAX_RETRIES = 2  # times that replacements for rejected proposals are requested
_IGNORED_REJECTIONS = 2  # rejected proposals that need no note
_MIN_TOKENS = 512  # reply length limit, at least
_MAX_TOKENS = 4_096  # and at most
_CHARACTERS_PER_TOKEN = 3  # a low estimate, so that replies have room


class AskResult(NamedTuple):
    """The outcome of `ask`.

    Args:
        prompts: new, usable prompts; at most as many as requested.
        rejected: counts of rejected proposals and replies, by reason.
    """

    prompts: list[Prompt]
    rejected: Counter[str]

    def facts(self) -> dict[str, float | str]:
        """Return the facts that a step reports about it."""
        return {"new": len(self.prompts), "rejected": self.rejected.total(), "why": by_reason(self.rejected)}


def by_reason(rejected: Counter[str]) -> str:
    """Return the counts in words, the largest first, such as "3 identical to a known prompt, 1 too long"."""
    ordered = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {_IN_WORDS.get(reason, reason)}" for reason, count in ordered)


def rejections(proposed: Counter[str], writer: Spending = _NOTHING_SPENT) -> str:
    """Return a note if most of a run's proposals were rejected, else "".

    Args:
        proposed: counts of proposals by reason, as in `Run.proposed`.
        writer: what the writer used.
    """
    rejected = Counter({reason: count for reason, count in proposed.items() if reason != "usable"})
    if rejected.total() <= max(proposed["usable"], _IGNORED_REJECTIONS):
        return ""
    return (
        f"most of the writer's proposals could not be used: {rejected.total()} of {proposed.total()} were rejected "
        f"({by_reason(rejected)}){_cost(writer)}; a more capable --writer may find more"
    )


def _cost(spent: Spending) -> str:
    if not spent.calls:
        return ""
    price = f" and ${spent.dollars:,.4f}" if spent.dollars else ""
    return f"; the writer took {spent.calls:,} calls{price}"


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
    """Ask for `count` prompts, and at most twice more for replacements of rejected ones.

    If the writer gives too few prompts, the rest is not requested again; surplus prompts are dropped.

    Args:
        run: the run whose writer is asked.
        message: returns the message that asks for a given number of prompts.
        count: number of prompts to request.
        each: prompts per message.
        like: the prompt whose demonstrations and slots new prompts keep.
        known: prompts that do not count as new.
        longest: maximum characters of a prompt.

    Returns:
        The new prompts, and counts of the rejected proposals.

    Raises:
        BudgetExhaustedError: as for `Run.write`.
    """
    known = list(known)
    out = AskResult([], Counter())
    missing = count
    for _ in range(1 + _MAX_RETRIES):
        size = min(each, missing)
        unusable_before = Counter(run.unusable)
        tokens = min(_MAX_TOKENS, max(_MIN_TOKENS, size * (2 * len(like.text) // _CHARACTERS_PER_TOKEN + 64)))
        replies = run.write(message(size), count=-(-missing // size), max_tokens=tokens)
        parsed = parse_proposals(run.task, replies, like, [*known, *out.prompts], longest)
        unusable = run.unusable - unusable_before
        out.rejected.update(parsed.rejected + unusable)
        run.proposed.update(parsed.rejected + unusable)
        run.proposed["usable"] += len(parsed.prompts)
        out.prompts.extend(parsed.prompts[:missing])
        missing = min(count - len(out.prompts), parsed.rejected.total() + size * unusable.total())
        if not missing:
            break
    return out


def example_results(
    run: Run, prompt: Prompt, examples: Sequence[Example], pick: Callable[[Floats], np.intp]
) -> list[ExampleResult]:
    """Return examples with one reply each under a prompt that was scored on them; free, because replies are in the memo.

    Args:
        run: the run that scored the prompt.
        prompt: the prompt.
        examples: examples with at least one successful reply.
        pick: chooses among the rewards of an example's replicates, such as `np.nanargmin`.
    """
    if not examples:
        return []
    scores = run.score([prompt], examples)
    results = []
    for example, rewards, replies, reasons in zip(
        scores.examples, scores.rewards[0], scores.replies[0], scores.reasons[0], strict=True
    ):
        r = int(pick(rewards))
        results.append(example_result(example, replies[r], reasons[r], float(rewards[r])))
    return results
