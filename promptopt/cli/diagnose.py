"""`promptopt diagnose`: is this task worth optimising? Candidate prompts meet all examples, several times each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from promptopt.cli.output import say, say_json, say_table
from promptopt.cli.run import (
    BaseUrl,
    Batch,
    Concurrency,
    Data,
    DropUnusable,
    ExtraBody,
    Input,
    Json,
    Label,
    Labels,
    MemoPlace,
    ModelName,
    NoLogprobs,
    PriceText,
    PromptText,
    Quiet,
    RayAddress,
    Replicas,
    Reward,
    Rpm,
    SplitSeed,
    TaskArgument,
    Timeout,
    Tokenizer,
    Tpm,
    _libraries_speak_aside,  # pyright: ignore[reportPrivateUsage]
    _Pace,  # pyright: ignore[reportPrivateUsage]  one command line in two files
    _with_batches,  # pyright: ignore[reportPrivateUsage]
)
from promptopt.cli.source import Source
from promptopt.memo.memo import Memo
from promptopt.optimization.diagnosis import diagnose as diagnose_task
from promptopt.statistics.arrays import nanmean
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.optimization.diagnosis import Diagnosis

_SURE = 0.05  # share of false alarms among the examples that are said to tell prompts apart
_SHOWN = 12  # examples in the table


def diagnose(
    task: TaskArgument = None,
    model: ModelName = "local:smollm2",
    systems: Annotated[int, typer.Option(min=4, help="Prompts to try: yours, and others written for the probe.")] = 16,
    replicates: Annotated[int, typer.Option(min=2, help="Most replies to a prompt on an example; 2 or more.")] = 8,
    examples: Annotated[int, typer.Option(min=2, help="Most training examples, drawn by the seed.")] = 40,
    pruned_: Annotated[
        bool, typer.Option("--pruned", help="Try your prompt with random words taken away; needs no writer.")
    ] = False,
    writer: Annotated[str | None, typer.Option(help="Model that writes prompts; by default the task model.")] = None,
    worth: Annotated[float, typer.Option(help="Standard deviation between prompts that is worth a search.")] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help="Of all randomness.")] = 0,
    data: Data = None,
    input: Input = None,  # noqa: A002  the option's name
    label: Label = None,
    labels: Labels = None,
    seed_prompt: PromptText = None,
    reward: Reward = None,
    no_logprobs: NoLogprobs = False,
    drop_unusable: DropUnusable = False,
    split_seed: SplitSeed = 0,
    base_url: BaseUrl = None,
    tokenizer: Tokenizer = None,
    price: PriceText = None,
    concurrency: Concurrency = None,
    timeout: Timeout = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    extra_body: ExtraBody = None,
    batch: Batch = False,
    replicas: Replicas = None,
    ray: RayAddress = None,
    budget: Annotated[str | None, typer.Option(help="'500 calls', '2 dollars' or '1M tokens'.")] = None,
    memo: MemoPlace = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Is this task worth optimising? Says whether prompts differ, which examples show it, and what a search can hope for."""
    source = Source(task, data, input, label, labels, seed_prompt, reward, split_seed, no_logprobs, drop_unusable)
    read = source.task()
    pace = _Pace(concurrency, timeout, rpm, tpm)
    loaded = pace.load(model, base_url, price, tokenizer, replicas, ray, extra_body)
    with Display(quiet=quiet) as display, Memo(memo) as store, _libraries_speak_aside():
        said = diagnose_task(
            read,
            _with_batches(loaded) if batch else loaded,
            writer=pace.load(writer, None, None) if writer else None,
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
        say_json(said.to_json())
    else:
        _print(said, read.notes)


def _sd(variance: float) -> float:
    return math.sqrt(max(0.0, variance))


def _print(said: Diagnosis, notes: Sequence[str]) -> None:
    parts = said.components
    missing = int(np.isnan(said.probe.rewards[..., :2]).sum())
    say(
        f"{parts.systems} prompts x {parts.users} examples x up to {said.probe.rewards.shape[2]} replies, {said.calls:,} "
        f"calls{f', {missing} gaps' if missing else ''}\n"
    )
    for note in notes:
        say(f"note: {note}")
    words = {
        "system": "the prompt, whatever the example",
        "interaction": "the prompt, on single examples",
        "noise": "chance, same prompt and example",
    }
    rows = [
        (words[name], f"{_sd(part.estimate):.3f}", f"{_sd(part.low):.3f} to {_sd(part.high):.3f}")
        for name, part in said.named()
    ]
    say_table(["what moves the reward", "by (SD)", "95 % interval"], rows, left=range(3))
    means = said.means
    say(
        f"mean reward: your prompt {means[0]:.3f}, the {len(means)} prompts {np.nanmean(means):.3f}, the best of them "
        f"{np.nanmax(means):.3f} (flattered: it was picked by these replies)\n"
    )
    _print_examples(said)
    hopes = [(str(prompts), f"{calls:,}", f"{gain:+.3f}") for prompts, calls, gain in said.searches()]
    say("What a search can hope for, by trying prompts like these on all the examples once:")
    say_table(["prompts tried", "calls", "gain over the average prompt"], hopes, left=range(3))
    say("\n".join(["", f"Worth optimising? {said.verdict}", *(f"* {line}" for line in said.advice())]))


def _print_examples(said: Diagnosis) -> None:
    order = [
        int(k)
        for k in np.lexsort((-np.nan_to_num(said.prompt_variances), said.p_values))
        if said.prompt_variances[k] > 0
    ]
    certain = int((said.p_values < _SURE).sum())
    say(
        f"Examples that tell prompts apart: {certain} of {len(said.ids)} for sure (at most {_SURE:.0%} false alarms)"
        + (", the likeliest first:" if order else "")
    )
    if order:
        means = nanmean(nanmean(said.probe.rewards, axis=2), axis=0)
        heads = ["example", "between prompts (SD)", "by chance (p)", "mean reward", "the others"]
        rows = [
            (
                said.ids[k],
                f"{_sd(said.prompt_variances[k]):.3f}",
                f"{said.p_values[k]:.3f}",
                f"{means[k]:.3f}",
                "agree" if said.agreement[k] > 0 else "disagree",
            )
            for k in order[:_SHOWN]
        ]
        say_table(heads, rows, left=range(len(heads)))
    say(f"The strategy p1 would search on {' and '.join(said.subset)}.\n" if said.subset else "")
