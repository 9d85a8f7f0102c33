"""`promptopt diagnose`: estimate how much prompts differ on a task, from repeated replies to several prompts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from promptopt.cli.model_options import TaskModelOptions
from promptopt.cli.options import BudgetText, Json, MemoLocation, Quiet, WriterName, with_groups
from promptopt.cli.output import redirect_library_output, say, say_json, say_table
from promptopt.cli.task_options import DataOptions
from promptopt.memo.memo import Memo
from promptopt.optimization.diagnosis import diagnose as diagnose_task
from promptopt.statistics.arrays import nanmean
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.optimization.diagnosis import Diagnosis

_MAX_FALSE_DISCOVERY = 0.05  # false discovery rate among the examples reported as discriminating
_MAX_ROWS = 12  # examples in the table


@with_groups
def diagnose(
    task: DataOptions,
    model: TaskModelOptions,
    systems: Annotated[int, typer.Option(min=4, help="Number of prompts to try, including yours.")] = 16,
    replicates: Annotated[int, typer.Option(min=2, help="Maximum samples per prompt and example (at least 2).")] = 8,
    examples: Annotated[int, typer.Option(min=2, help="Maximum training examples (random sample).")] = 40,
    pruned_: Annotated[
        bool,
        typer.Option("--pruned", help="Try your prompt with random words removed, instead of prompts by a writer."),
    ] = False,
    writer: WriterName = None,
    worth: Annotated[
        float, typer.Option(help="Smallest standard deviation between prompts that makes a search worthwhile.")
    ] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    budget: BudgetText = None,
    memo: MemoLocation = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Estimate whether a task is worth optimizing: how much prompts differ, on which examples, and the gain to expect."""
    loaded_task = task.load()
    loaded_model = model.task_model()
    with Display(quiet=quiet) as display, Memo(memo) as store, redirect_library_output():
        diagnosis = diagnose_task(
            loaded_task,
            loaded_model,
            writer=model.load_writer(writer),
            budget=budget,
            systems=systems,
            replicates=replicates,
            examples=examples,
            prune=pruned_,
            worth=worth,
            seed=seed,
            memo=store,
            display=display,
        )
    if json_:
        say_json(diagnosis.to_json())
    else:
        _print(diagnosis, loaded_task.notes)


def _sd(variance: float) -> float:
    return math.sqrt(max(0.0, variance))


def _print(diagnosis: Diagnosis, notes: Sequence[str]) -> None:
    parts = diagnosis.components
    missing = int(np.isnan(diagnosis.probe.rewards[..., :2]).sum())
    say(
        f"{parts.systems} prompts x {parts.users} examples x up to {diagnosis.probe.rewards.shape[2]} replies, {diagnosis.calls:,} "
        f"calls{f', {missing} without a score' if missing else ''}\n"
    )
    for note in notes:
        say(f"note: {note}")
    labels = {
        "system": "prompt (same on all examples)",
        "interaction": "prompt (specific to an example)",
        "noise": "sampling noise (same prompt and example)",
    }
    rows = [
        (labels[name], f"{_sd(part.estimate):.3f}", f"{_sd(part.low):.3f} to {_sd(part.high):.3f}")
        for name, part in diagnosis.named()
    ]
    say_table(["source of variation", "SD of reward", "95 % interval"], rows, left=range(3))
    means = diagnosis.means
    say(
        f"mean reward: your prompt {means[0]:.3f}, the {len(means)} prompts {np.nanmean(means):.3f}, the best of them "
        f"{np.nanmax(means):.3f} (too high: selected on these same replies)\n"
    )
    _print_examples(diagnosis)
    expected_gains = [(str(prompts), f"{calls:,}", f"{gain:+.3f}") for prompts, calls, gain in diagnosis.searches()]
    say("Expected gain of a search that tries prompts like these once on every example:")
    say_table(["prompts tried", "calls", "gain over the average prompt"], expected_gains, left=range(3))
    say("\n".join(["", f"Worth optimizing? {diagnosis.verdict}", *(f"* {line}" for line in diagnosis.advice())]))


def _print_examples(diagnosis: Diagnosis) -> None:
    order = [
        int(k)
        for k in np.lexsort((-np.nan_to_num(diagnosis.prompt_variances), diagnosis.p_values))
        if diagnosis.prompt_variances[k] > 0
    ]
    discriminating = int((diagnosis.p_values < _MAX_FALSE_DISCOVERY).sum())
    say(
        f"Examples that distinguish prompts: {discriminating} of {len(diagnosis.ids)} "
        f"(at most {_MAX_FALSE_DISCOVERY:.0%} false positives)" + ("; most certain first:" if order else "")
    )
    if order:
        means = nanmean(nanmean(diagnosis.probe.rewards, axis=2), axis=0)
        headers = ["example", "between prompts (SD)", "adjusted p", "mean reward", "vs. other examples"]
        rows = [
            (
                diagnosis.ids[k],
                f"{_sd(diagnosis.prompt_variances[k]):.3f}",
                f"{diagnosis.p_values[k]:.3f}",
                f"{means[k]:.3f}",
                "agrees" if diagnosis.agreement[k] > 0 else "disagrees",
            )
            for k in order[:_MAX_ROWS]
        ]
        say_table(headers, rows, left=range(len(headers)))
    say(f"Strategy p1 would search on {' and '.join(diagnosis.subset)}.\n" if diagnosis.subset else "")
