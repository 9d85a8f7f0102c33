"""Is a task worth optimising? Candidate prompts meet all examples, several times each, and the spread of rewards is taken apart."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt.errors import InputError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo.memo import Memo
from promptopt.optimization.job import read_budget, read_model, read_task
from promptopt.randomness import named_generator
from promptopt.search.run import Run
from promptopt.statistics.arrays import nanmean
from promptopt.statistics.components import components, covariance, discrimination_p_values, shrunken_covariance
from promptopt.strategies import P1
from promptopt.strategies.p1 import Probe, probe, pruned, written

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt.models.base import Model
    from promptopt.statistics import Interval
    from promptopt.statistics.arrays import Floats
    from promptopt.statistics.components import Components
    from promptopt.task import Task
    from promptopt.tracking.display import Display

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
    task: Task | str | Path,
    model: Model | str,
    *,
    writer: Model | str | None = None,
    budget: Budget | str | None = None,
    systems: int = 16,
    replicates: int = 8,
    examples: int = 40,
    prune: bool = False,
    worth: float = 0.02,
    seed: int = 0,
    memo: Memo | Path | str | None = None,
    display: Display | None = None,
) -> Diagnosis:
    """Say whether prompts differ on a task, which examples show it, and what a search can hope for.

    Args:
        task: a task, or the path of a task file.
        model: the model that the prompt is for, or its name.
        writer: writes the prompts to try; by default the task model.
        budget: the most to use; hosted models need one.
        systems: prompts to try, 4 or more: the seed prompt, and others made for the probe.
        replicates: the most replies to a prompt on an example, 2 or more.
        examples: the most training examples, 2 or more, drawn by the seed.
        prune: try the seed prompt with random words taken away, which needs no writer.
        worth: standard deviation between prompts that is worth a search.
        seed: of all randomness.
        memo: where replies are kept, as of `optimize`.
        display: shows progress; None is silent.

    Raises:
        InputError: something given cannot be used, or too few prompts could be made.
        FinalModelError, PassingModelError: a model cannot be used at all.
    """
    read = _few(read_task(task), examples, seed)
    asked = read_model(model)
    writing = asked if writer is None else read_model(writer)
    limit = read_budget(budget)
    _refuse_unlimited([asked] if prune else [asked, writing], limit, systems * len(read.train) * replicates)
    with display or nullcontext(), nullcontext(memo) if isinstance(memo, Memo) else Memo(memo) as store:
        caller = Caller(store, Ledger(limit))
        run = Run(read, named_generator(seed, "diagnose"), seed, Scorer(read, asked, caller), writing)
        if display is not None:
            caller.watch = run.watch = lambda: display.show(run)
        prompts = (pruned if prune else written)(run, systems)
        if len(prompts) < 4:  # noqa: PLR2004  two to choose by and two to check, as P1
            raise InputError(
                f"only {len(prompts)} of {systems} prompts could be made: "
                + ("the seed prompt has too few words" if prune else "name a better writer, or try pruning (--pruned)")
            )
        found = probe(run, prompts, replicates)
        calls = caller.ledger.total(caller.ledger.logical).calls
    return diagnosis(found, read, worth, calls)


def diagnosis(found: Probe, task: Task, worth: float, calls: int) -> Diagnosis:
    """Return what a probe of a task's training examples says."""
    matrix, smooth = covariance(found.rewards), shrunken_covariance(found.rewards)
    others = smooth - np.diag(np.diag(smooth))
    chooser = P1(inner="random", subset=min(2, len(task.train)))
    subset = chooser.choose(found.rewards)
    return Diagnosis(
        found=found,
        parts=components(found.rewards),
        ids=tuple(example.id for example in task.train),
        sure=discrimination_p_values(found.rewards),
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


def _refuse_unlimited(models: Sequence[Model], budget: Budget, calls: int) -> None:
    if budget == Budget() and any(model.price is None or any(model.price) for model in models):
        raise InputError(
            f"the model costs money and there is no budget: this takes up to {calls:,} calls; give one, such as "
            f"--budget '{calls} calls', or ask for less (--systems, --examples, --replicates)"
        )


def _sd(variance: float) -> float:
    return math.sqrt(max(0.0, variance))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
