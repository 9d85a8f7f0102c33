"""`promptopt diagnose`: is this task worth optimising? Candidate prompts meet all examples, several times each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

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
from promptopt.errors import InputError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo.memo import Memo
from promptopt.randomness import named_generator
from promptopt.search.run import Run
from promptopt.statistics.arrays import nanmean
from promptopt.statistics.components import components, covariance, shrunk, telling
from promptopt.strategies import P1
from promptopt.strategies.p1 import Probe, probe, pruned, written
from promptopt.tracking.display import Display

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.base import Model
    from promptopt.statistics import Interval
    from promptopt.statistics.arrays import Floats
    from promptopt.statistics.components import Components
    from promptopt.task import Task

_SURE = 0.05  # share of false alarms among the examples that are said to tell prompts apart
_SHOWN = 12  # examples in the table
_SEARCHES = (4, 16, 64)  # prompts that a search may try
_ALIKE = 0.5  # share of examples above which they explain the verdict


@dataclass(frozen=True)
class Diagnosis:
    """What a probe says of a task.

    Args:
        found: candidate prompts on all examples.
        parts: the variance components.
        ids: [K] of the examples.
        sure: [K] adjusted p-values that the example tells prompts apart.
        between: [K] variance between prompts' true means; below 0 by chance.
        agreement: [K] mean covariance with the other examples.
        subset: examples that p1 would choose, and
        held_out: the variance that such a choice shows for candidates that took no part in it.
        worth: standard deviation of prompt quality that is worth a search.
        calls: spent.
    """

    found: Probe
    parts: Components
    ids: tuple[str, ...]
    sure: Floats
    between: Floats
    agreement: Floats
    subset: tuple[str, ...]
    held_out: float
    worth: float
    calls: int

    @property
    def means(self) -> Floats:
        """Mean reward of each prompt over examples, [N]."""
        return nanmean(nanmean(self.found.rewards, axis=2), axis=1)

    @property
    def verdict(self) -> str:
        """Yes, no or unclear, with the reason."""
        low, high = (_sd(end) for end in self.parts.system[1:])
        if high < self.worth:
            return f"No: the prompts tried differ by less than {self.worth:g} (95 % sure), over all examples."
        if low > 0:
            return (
                f"Yes: some prompts are better than others, by a standard deviation of {low:.3f} or more (95 % sure)."
            )
        return "Unclear: differences between prompts could be chance, or worth having; nothing is shown either way."

    def advice(self) -> list[str]:
        """Return what to change, in plain words."""
        out = []
        means = nanmean(nanmean(self.found.rewards, axis=2), axis=0)
        same = np.array(
            [np.ptp(cell[~np.isnan(cell)]) == 0 if (~np.isnan(cell)).any() else True for cell in self._rows]
        )
        low, high = np.nanmin(self.found.rewards), np.nanmax(self.found.rewards)
        right, wrong = float((same & (means == high)).mean()), float((same & (means == low)).mean())
        if not self.verdict.startswith("Yes"):
            if high == low or right > _ALIKE:
                out.append(
                    "Most examples come out well under every prompt: give harder examples, there is little to win."
                )
            elif wrong > _ALIKE:
                out.append(
                    "Most examples fail under every prompt: look at some replies (is the reward able to read them?), or "
                    "take a stronger model."
                )
            else:
                out.append(
                    "Try prompts that differ more: a description of the task, a stronger writer (--writer), another seed "
                    "prompt, or demonstrations. Fewer or other examples will not help."
                )
        if self.verdict.startswith("Unclear"):
            out.append(f"To know more, try more prompts (--systems {2 * self.parts.systems}): {self._wanted}")
        if self.parts.noise.estimate == 0:
            out.append(
                "Replies are the same each time, so more replicates tell nothing; a prompt's lucky accidents on single "
                "examples look like preferences, and only what all examples agree on can be trusted."
            )
        elif _sd(self.parts.noise.estimate) > 2 * _sd(self.parts.system.estimate):
            out.append(
                "Replies vary more by chance than by prompt: a lower temperature, if the task allows, saves calls."
            )
        if self._shared < _ALIKE:
            out.append(
                "Which prompt is better depends on the example more than it holds for all: a search should measure on many "
                "examples; what it finds on a few (as p1 does) may not hold for the others."
            )
        else:
            out.append("Examples agree about which prompt is better: a search needs few of them (--strategy p1).")
        if self.found.cut > 0:
            out.append(f"{self.found.cut:.0%} of the replies were cut off at their length limit: raise max_tokens.")
        return out

    @property
    def _rows(self) -> list[Floats]:
        return [self.found.rewards[:, k].ravel() for k in range(len(self.ids))]

    @property
    def _shared(self) -> float:
        system, interaction = (max(0.0, part.estimate) for part in self.parts[:2])
        return system / (system + interaction) if system + interaction else 1.0

    @property
    def _wanted(self) -> str:
        wanted = self.parts.replicates
        if not 0 < wanted < math.inf:
            return "more replicates tell less."
        return (
            f"about {math.ceil(wanted)} replicates of each cell measure best, {self.found.rewards.shape[2]} were taken."
        )

    def searches(self) -> list[tuple[int, int, float]]:
        """Return (prompts, calls, gain over the average prompt) of searches that measure each on all examples once.

        Never more than what is left to the best reward that was seen.
        """
        room = float(np.nanmax(self.found.rewards) - np.nanmean(self.means))
        return [(n, n * self.parts.users, min(room, self.parts.gain(n, self.parts.users, 1))) for n in _SEARCHES]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; variances, not standard deviations."""
        wanted = self.parts.replicates
        return {
            "verdict": self.verdict,
            "advice": self.advice(),
            "systems": self.parts.systems,
            "examples": self.parts.users,
            "replicates": self.found.rewards.shape[2],
            "calls": self.calls,
            "missing": int(np.isnan(self.found.rewards[..., :2]).sum()),
            "cut": self.found.cut,
            "variance": {name: [_finite(value) for value in part] for name, part in self.named()},
            "best_replicates": _finite(wanted),
            "prompts": [
                {"prompt": prompt.text, "reward": _finite(mean)}
                for prompt, mean in zip(self.found.prompts, self.means.tolist(), strict=True)
            ],
            "telling": [
                {"id": self.ids[k], "p": float(self.sure[k]), "variance": _finite(self.between[k])}
                for k in range(len(self.ids))
            ],
            "subset": list(self.subset),
            "held_out": _finite(self.held_out),
            "searches": [{"prompts": n, "calls": calls, "gain": gain} for n, calls, gain in self.searches()],
        }

    def named(self) -> list[tuple[str, Interval]]:
        """Return the variance components by name."""
        return [("system", self.parts.system), ("interaction", self.parts.interaction), ("noise", self.parts.noise)]


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
    read = _few(source.task(), examples, seed)
    pace = _Pace(concurrency, timeout, rpm, tpm)
    loaded = pace.load(model, base_url, price, tokenizer, replicas, ray, extra_body)
    loaded = _with_batches(loaded) if batch else loaded
    asked = pace.load(writer, None, None) if writer else loaded
    _refuse_unlimited([loaded] if pruned_ else [loaded, asked], budget, systems * len(read.train) * replicates)
    with Display(quiet=quiet) as display, Memo(memo) as store, _libraries_speak_aside():
        caller = Caller(store, Ledger(Budget.parse(budget) if budget else Budget()))
        run = Run(read, named_generator(seed, "diagnose"), seed, Scorer(read, loaded, caller), asked)
        caller.watch = run.watch = lambda: display.show(run)
        prompts = (pruned if pruned_ else written)(run, systems)
        if len(prompts) < 4:  # noqa: PLR2004  two to choose by and two to check, as P1
            raise InputError(
                f"only {len(prompts)} of {systems} prompts could be made: "
                + ("the seed prompt has too few words" if pruned_ else "name a better --writer, or try --pruned")
            )
        found = probe(run, prompts, replicates)
        calls = caller.ledger.total(caller.ledger.logical).calls
    said = diagnosis(found, read, worth, calls)
    if json_:
        say_json(said.to_json())
    else:
        _print(said, read.notes)


def diagnosis(found: Probe, task: Task, worth: float, calls: int) -> Diagnosis:
    """Return what a probe of a task's training examples says."""
    matrix, smooth = covariance(found.rewards), shrunk(found.rewards)
    others = smooth - np.diag(np.diag(smooth))
    chooser = P1(inner="random", subset=min(2, len(task.train)))
    subset = chooser.choose(found.rewards)
    return Diagnosis(
        found=found,
        parts=components(found.rewards),
        ids=tuple(example.id for example in task.train),
        sure=telling(found.rewards),
        between=np.diag(matrix).copy(),
        agreement=others.sum(axis=1) / (len(matrix) - 1),
        subset=tuple(task.train[k].id for k in subset or ()),
        held_out=chooser.held_out(found.rewards),
        worth=worth,
        calls=calls,
    )


def _few(task: Task, most: int, seed: int) -> Task:
    """Return the task with at most that many training examples."""
    if len(task.train) < 2:  # noqa: PLR2004  agreement is between two
        raise InputError(f"a diagnosis needs two training examples or more, not {len(task.train)}")
    if len(task.train) <= most:
        return task
    drawn = named_generator(seed, "sample to diagnose").choice(len(task.train), size=most, replace=False)
    return replace(task, train=tuple(task.train[k] for k in sorted(drawn.tolist())))


def _refuse_unlimited(models: list[Model], budget: str | None, calls: int) -> None:
    if budget is None and any(model.price is None or any(model.price) for model in models):
        raise InputError(
            f"the model costs money and there is no budget: this takes up to {calls:,} calls; give one, such as "
            f"--budget '{calls} calls', or ask for less (--systems, --examples, --replicates)"
        )


def _sd(variance: float) -> float:
    return math.sqrt(max(0.0, variance))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _print(said: Diagnosis, notes: Sequence[str]) -> None:
    parts = said.parts
    missing = int(np.isnan(said.found.rewards[..., :2]).sum())
    say(
        f"{parts.systems} prompts x {parts.users} examples x up to {said.found.rewards.shape[2]} replies, {said.calls:,} "
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
    order = [int(k) for k in np.lexsort((-np.nan_to_num(said.between), said.sure)) if said.between[k] > 0]
    certain = int((said.sure < _SURE).sum())
    say(
        f"Examples that tell prompts apart: {certain} of {len(said.ids)} for sure (at most {_SURE:.0%} false alarms)"
        + (", the likeliest first:" if order else "")
    )
    if order:
        means = nanmean(nanmean(said.found.rewards, axis=2), axis=0)
        heads = ["example", "between prompts (SD)", "by chance (p)", "mean reward", "the others"]
        rows = [
            (
                said.ids[k],
                f"{_sd(said.between[k]):.3f}",
                f"{said.sure[k]:.3f}",
                f"{means[k]:.3f}",
                "agree" if said.agreement[k] > 0 else "disagree",
            )
            for k in order[:_SHOWN]
        ]
        say_table(heads, rows, left=range(len(heads)))
    say(f"The strategy p1 would search on {' and '.join(said.subset)}.\n" if said.subset else "")
