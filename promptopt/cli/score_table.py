"""The table that `promptopt score` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from promptopt.cli.output import say, say_table
from promptopt.evaluation.silence import Silence
from promptopt.results.outcomes import SAME
from promptopt.statistics import mean_interval, paired_interval

if TYPE_CHECKING:
    from promptopt.evaluation.scorer import Scorer
    from promptopt.prompt import Prompt
    from promptopt.statistics import Interval


def score_prompts(scorer: Scorer, prompts: list[Prompt], split: str, replicates: int) -> list[dict[str, Any]]:
    """Score prompts on a split, and return a row for each, as `promptopt score --json` prints them."""
    examples = getattr(scorer.task, split)
    scores = scorer.score(prompts, examples, replicates, written=scorer.tests_text)
    first, groups = scores.per_example[0], scores.groups
    out = []
    for i, prompt in enumerate(prompts):
        row = scores.per_example[i]
        out.append(
            {
                "prompt": prompt.text,
                "reward": _interval(mean_interval(row, clusters=groups)),
                "less_first": _interval(paired_interval(row, first, clusters=groups) if prompt != prompts[0] else SAME)
                if i
                else None,
                "examples": len(examples),
                "failed": sum(bool(failed) for failed in (scores.rewards[i] != scores.rewards[i]).ravel()),
                "notes": Silence.of(reply for column in scores.replies[i] for reply in column).notes(
                    scorer.task.max_tokens
                ),
            }
        )
    return out


def _interval(interval: Interval) -> list[float | None]:
    return [value if abs(value) < float("inf") else None for value in interval]


def print_scores(rows: list[dict[str, Any]]) -> None:
    """Print the rows of `score_prompts`."""
    headers = ["prompt", "reward", "95 % interval", "gain over first (paired)", "failed"]
    say_table(headers, map(_score_row, rows), left=range(len(headers)))
    for row in rows:
        for note in row["notes"]:
            say(f"note: {note}")


def _score_row(row: dict[str, Any]) -> list[str]:
    mean, low, high = row["reward"]
    return [
        row["prompt"],
        "-" if mean is None else f"{mean:.3f}",
        _format_range(low, high, ""),
        "" if row["less_first"] is None else _format_gain(*row["less_first"]),
        str(row["failed"]),
    ]


def _format_gain(mean: float, low: float | None, high: float | None) -> str:
    return f"{mean:+.3f} ({_format_range(low, high, '+')})"


def _format_range(low: float | None, high: float | None, sign: str) -> str:
    return f"{'-inf' if low is None else format(low, sign + '.3f')} to {'inf' if high is None else format(high, sign + '.3f')}"
