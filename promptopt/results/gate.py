"""The outcome of a gate: whether a prompt, or the model behind a run, may pass. As a value, as Markdown and as JUnit XML.

Knows nothing of how it was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from xml.sax.saxutils import escape, quoteattr

from promptopt.utils.characters import printable

if TYPE_CHECKING:
    from promptopt.statistics import Interval

Decision: TypeAlias = Literal["passed", "worse", "undecided"]

EXIT_CODES: dict[Decision, int] = {"passed": 0, "worse": 3, "undecided": 4}
"""Exit code of `promptopt gate` for each decision."""

_SHOWN_IDS = 10  # examples that the Markdown names
_POWER_QUANTILE = 0.842  # normal quantile of 80 %


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """The outcome of `compare_prompts` or `check_drift`.

    Args:
        decision: "passed", "worse" or "undecided".
        difference: mean reward of the new side minus the old side, paired by item, with the interval of the last look. Over all looks
            together, its error is at most `error`. Estimate NaN and infinite bounds if no item has both rewards.
        items: number of test items that both sides have a reward for.
        available: number of items that the test could have used.
        calls: calls that the test would make with an empty memo.
        calls_made: those of them that the memo did not answer.
        dollars: cost of the calls made, at known prices.
        margin: the largest loss that passes, in rewards; 0 if `better`.
        better: whether the new prompt had to be better, not only no worse by more than the margin.
        error: the largest probability of a wrong decision.
        looks: numbers of items after which the test could stop, as far as it went.
        old: name of the old side, such as a file.
        new: name of the new side.
        task: name of the task.
        model: name of the model.
        drift: whether the old side is the recorded replies of a run.
        lost: ids of the items on which the new side has the lower reward.
        won: ids of those on which it has the higher reward.
        changed: number of replies that differ from the recorded ones; None for two prompts.
        failed: number of replies that failed.
        items_needed: about how many items would decide, if the difference is as measured; None if that is not known.
        notes: remarks on the numbers.
    """

    decision: Decision
    difference: Interval
    items: int
    available: int
    calls: int
    calls_made: int
    dollars: float
    margin: float
    better: bool
    error: float
    looks: tuple[int, ...]
    old: str
    new: str
    task: str
    model: str
    drift: bool = False
    lost: tuple[str, ...] = ()
    won: tuple[str, ...] = ()
    changed: int | None = None
    failed: int = 0
    items_needed: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the decision is "passed"."""
        return self.decision == "passed"

    @property
    def estimate(self) -> float:
        """Mean reward of the new side minus the old side, over the items used."""
        return self.difference.estimate

    @property
    def exit_code(self) -> int:
        """0 passed, 3 worse, 4 undecided."""
        return EXIT_CODES[self.decision]

    @property
    def headline(self) -> str:
        """The outcome in one sentence or two."""
        return f"{self.decision.capitalize()}: {self._finding}."

    @property
    def _sides(self) -> tuple[str, str]:
        return ("the recorded replies", "the model today") if self.drift else ("the old prompt", "the new prompt")

    @property
    def _finding(self) -> str:
        old, new = self._sides
        if not self.looks:
            same = "the two prompts are the same, so no model was called"
            return same if self.passed else f"{same}, and neither can be better"
        shown = {
            ("passed", False): f"{new} is not worse than {old} by more than {self.margin:g}",
            ("passed", True): f"{new} is better than {old}",
            ("worse", False): f"{new} is worse than {old} by more than {self.margin:g}",
            ("worse", True): f"{new} is worse than {old}",
        }
        aim = "is better" if self.better else f"is worse by more than {self.margin:g}"
        finding = shown.get((self.decision, self.better), f"the items do not show whether {new} {aim}")
        return f"{finding} ({self._numbers})"

    @property
    def _numbers(self) -> str:
        gain, low, high = self.difference
        used = f"{self.items:,} of {self.available:,} items"
        if math.isnan(gain):
            return f"no item has both rewards; {used}"
        return f"difference {gain:+.3f}, {self._level} interval {low:+.3f} to {high:+.3f}, {used}"

    @property
    def _level(self) -> str:
        return f"{100 * (1 - self.error):g} %"

    def rows(self) -> list[tuple[str, str]]:
        """Return the facts as rows (name, value)."""
        gain, low, high = self.difference
        aim = "better than the old prompt" if self.better else f"not worse by more than {self.margin:g}"
        out = [("task", self.task), ("model", self.model), ("old", self.old), ("new", self.new), ("required", aim)]
        if self.looks:
            out += [
                ("difference, paired", f"{gain:+.3f}"),
                (f"its {self._level} interval", f"{low:+.3f} to {high:+.3f}"),
                ("items", f"{self.items:,} of {self.available:,} ({len(self.won):,} better, {len(self.lost):,} worse)"),
            ]
        if self.changed is not None:
            out.append(("changed replies", f"{self.changed:,} of {self.items:,}"))
        out.append(
            ("calls", f"{self.calls:,} ({self.calls_made:,} made now, {self.calls - self.calls_made:,} from the memo)")
        )
        if self.dollars:
            out.append(("dollars", f"{self.dollars:.4f}"))
        if self.failed:
            out.append(("failed replies", str(self.failed)))
        return out

    def __str__(self) -> str:
        lines = [self.headline, "", *(f"{name:22}{value}" for name, value in self.rows())]
        return printable("\n".join([*lines, *(f"note: {note}" for note in self.notes)]))

    def markdown(self) -> str:
        """Return the outcome as Markdown, for a comment on a pull request."""
        lines = [f"**{_cell(self.headline)}**", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {_cell(value)} |" for name, value in self.rows()]
        for what, ids in (("Lower", self.lost), ("Higher", self.won)):
            if ids:
                more = f" and {len(ids) - _SHOWN_IDS:,} more" if len(ids) > _SHOWN_IDS else ""
                lines += ["", f"{what} reward on: {_cell(', '.join(ids[:_SHOWN_IDS]))}{more}"]
        lines += ["", *(f"* {_cell(note)}" for note in self.notes)] if self.notes else []
        return "\n".join(lines) + "\n"

    def junit(self) -> str:
        """Return the outcome as JUnit XML: one test, which failed unless the decision is "passed"."""
        name = "drift" if self.drift else f"{self.old} -> {self.new}"
        text = escape(_xml(str(self)))
        failure = f'<failure type="{self.decision}" message={quoteattr(_xml(self.headline))}>{text}</failure>'
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<testsuites>\n<testsuite name="promptopt gate" tests="1" failures="{int(not self.passed)}" errors="0" skipped="0">\n'
            f"<testcase classname={quoteattr(_xml(self.task))} name={quoteattr(_xml(name))}>\n"
            f"{'' if self.passed else failure}<system-out>{text}</system-out>\n"
            "</testcase>\n</testsuite>\n</testsuites>\n"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; NaN and infinities become null."""
        out = {**vars(self), "difference": [v if math.isfinite(v) else None for v in self.difference]}
        out |= {name: list(getattr(self, name)) for name in ("looks", "lost", "won", "notes")}
        return out | {"headline": self.headline, "exit_code": self.exit_code}


def items_needed(difference: Interval, items: int, bound: float) -> int | None:
    """Return about how many items would decide with power 0.8, if the difference is as measured; None if that is not known.

    Normal approximation: half the width of the interval, which is proportional to 1 / sqrt(n), is taken as its quantile times the
    standard error.

    Args:
        difference: as measured, with the interval of the last look.
        items: number of items that it is of.
        bound: the difference to be above or below.
    """
    gap, half = abs(difference.estimate - bound), (difference.high - difference.low) / 2
    if not gap > 0 or not math.isfinite(half):
        return None
    quantile = 2.2  # about that of the last look at an error of 5 %
    return max(math.ceil(items * (half * (1 + _POWER_QUANTILE / quantile) / gap) ** 2), items + 1)


def _cell(text: str) -> str:
    """Return text that Markdown shows literally on one line of a table."""
    flat = " ".join(printable(text).split())
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~" else c for c in flat).replace("@", "@\u200b")


def _xml(text: str) -> str:
    return "".join(c if c in "\n\t" or (ord(c) >= 0x20 and c not in "\ufffe\uffff") else " " for c in printable(text))  # noqa: PLR2004  first printable character
