"""Is a task worth optimizing? Score candidate prompts several times on all examples, and decompose the variance of rewards."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt.errors import InputError
from promptopt.evaluation.caller import Caller, nothing
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo.memo import Memo
from promptopt.models.base import without_batches
from promptopt.optimization.job import read_budget, read_model, read_task
from promptopt.randomness import named_generator
from promptopt.search.run import Run
from promptopt.statistics.arrays import nanmean
from promptopt.statistics.components import components, covariance, discrimination_p_values, shrunken_covariance
from promptopt.strategies import P1
from promptopt.strategies.p1 import Probe, probe, pruned_candidates, varied_candidates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt.models.base import Model
    from promptopt.statistics import Interval
    from promptopt.statistics.arrays import Floats
    from promptopt.statistics.components import Components
    from promptopt.task import Task
    from promptopt.tracking.display import Display

_SEARCH_SIZES = (4, 16, 64)  # prompts that a search may try
_MAJORITY = 0.5  # share of examples, or of variance, above which the advice mentions it
_FORMER_NAMES = {
    "found": "probe",
    "parts": "components",
    "sure": "p_values",
    "between": "prompt_variances",
    "worth": "min_effect_sd",
}


@dataclass(frozen=True)
class Diagnosis:
    """The result of probing a task.

    Args:
        probe: rewards of the candidate prompts on all examples.
        components: variance components of the rewards.
        ids: [K] ids of the examples.
        p_values: [K] adjusted p-values of the test whether an example separates the prompts.
        prompt_variances: [K] unbiased variance between the prompts' true means on an example; may be negative.
        agreement: [K] mean covariance with the other examples.
        subset: ids of the examples that p1 would choose.
        held_out: variance between held-out candidates on such a subset.
        min_effect_sd: smallest standard deviation of prompt quality that is worth a search.
        calls: model calls made.
    """

    probe: Probe
    components: Components
    ids: tuple[str, ...]
    p_values: Floats
    prompt_variances: Floats
    agreement: Floats
    subset: tuple[str, ...]
    held_out: float
    min_effect_sd: float
    calls: int

    def __getattr__(self, name: str) -> Any:
        if name not in _FORMER_NAMES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        new = _FORMER_NAMES[name]
        warnings.warn(f"Diagnosis.{name} is now Diagnosis.{new}", DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    @property
    def means(self) -> Floats:
        """Mean reward of each prompt over examples, [N]."""
        return nanmean(nanmean(self.probe.rewards, axis=2), axis=1)

    @property
    def verdict(self) -> str:
        """Yes, no or unclear, with the reason."""
        low, high = (_sd(end) for end in self.components.system[1:])
        if high < self.min_effect_sd:
            return f"No: the prompts tried differ by less than {self.min_effect_sd:g} (95 % confidence), over all examples."
        if low > 0:
            return f"Yes: prompts differ by a standard deviation of at least {low:.3f} (95 % confidence)."
        return "Unclear: the differences between prompts may be real, or chance; there is not enough data to tell."

    def advice(self) -> list[str]:
        """Return recommended changes, one sentence or two each."""
        advice = []
        means = nanmean(nanmean(self.probe.rewards, axis=2), axis=0)
        constant = np.array(
            [
                np.ptp(rewards[~np.isnan(rewards)]) == 0 if (~np.isnan(rewards)).any() else True
                for rewards in self._rewards_by_example
            ]
        )
        low, high = np.nanmin(self.probe.rewards), np.nanmax(self.probe.rewards)
        always_right, always_wrong = (float((constant & (means == end)).mean()) for end in (high, low))
        if not self.verdict.startswith("Yes"):
            if high == low or always_right > _MAJORITY:
                advice.append("Most examples succeed under every prompt: add harder examples, there is little to gain.")
            elif always_wrong > _MAJORITY:
                advice.append(
                    "Most examples fail under every prompt: check in some replies that the reward parses them, or use a "
                    "stronger model."
                )
            else:
                advice.append(
                    "Try prompts that differ more: a description of the task, a stronger writer (--writer), another seed "
                    "prompt, or demonstrations. Fewer or other examples will not help."
                )
        if self.verdict.startswith("Unclear"):
            advice.append(
                f"For a clearer answer, try more prompts (--systems {2 * self.components.systems}): "
                f"{self._replicates_advice}"
            )
        if self.components.noise.estimate == 0:
            advice.append(
                "Replies are the same each time, so more replicates add nothing, and a prompt's luck on single examples "
                "looks like a real effect: trust only differences on which all examples agree."
            )
        elif _sd(self.components.noise.estimate) > 2 * _sd(self.components.system.estimate):
            advice.append(
                "Replies vary more by chance than by prompt: a lower temperature, if the task allows, saves calls."
            )
        if self._system_share < _MAJORITY:
            advice.append(
                "Which prompt is better depends mostly on the example: search on many examples, because results on a few "
                "(as with p1) may not generalize."
            )
        else:
            advice.append("Examples agree about which prompt is better: a search needs few of them (--strategy p1).")
        if self.probe.truncated_share > 0:
            advice.append(
                f"{self.probe.truncated_share:.0%} of the replies were cut off at the length limit: raise max_tokens."
            )
        return advice

    @property
    def _rewards_by_example(self) -> list[Floats]:
        return [self.probe.rewards[:, k].ravel() for k in range(len(self.ids))]

    @property
    def _system_share(self) -> float:
        """The prompts' share of the variance that is not noise."""
        system, interaction = (max(0.0, part.estimate) for part in self.components[:2])
        return system / (system + interaction) if system + interaction else 1.0

    @property
    def _replicates_advice(self) -> str:
        optimal = self.components.replicates
        if not 0 < optimal < math.inf:
            return "more replicates add less."
        return (
            f"about {math.ceil(optimal)} replicates per example are optimal, {self.probe.rewards.shape[2]} were used."
        )

    def searches(self) -> list[tuple[int, int, float]]:
        """Return (prompts, calls, expected gain over the average prompt) of searches that score on all examples once.

        The gain is capped at the best observed reward minus the mean.
        """
        headroom = float(np.nanmax(self.probe.rewards) - np.nanmean(self.means))
        examples = self.components.users
        return [(n, n * examples, min(headroom, self.components.gain(n, examples, 1))) for n in _SEARCH_SIZES]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; variances, not standard deviations."""
        return {
            "verdict": self.verdict,
            "advice": self.advice(),
            "systems": self.components.systems,
            "examples": self.components.users,
            "replicates": self.probe.rewards.shape[2],
            "calls": self.calls,
            "missing": int(np.isnan(self.probe.rewards[..., :2]).sum()),
            "cut": self.probe.truncated_share,
            "variance": {name: [_finite(value) for value in part] for name, part in self.named()},
            "best_replicates": _finite(self.components.replicates),
            "prompts": [
                {"prompt": prompt.text, "reward": _finite(mean)}
                for prompt, mean in zip(self.probe.prompts, self.means.tolist(), strict=True)
            ],
            "discrimination_p_values": [
                {"id": self.ids[k], "p": float(self.p_values[k]), "variance": _finite(self.prompt_variances[k])}
                for k in range(len(self.ids))
            ],
            "subset": list(self.subset),
            "held_out": _finite(self.held_out),
            "searches": [{"prompts": n, "calls": calls, "gain": gain} for n, calls, gain in self.searches()],
        }

    def named(self) -> list[tuple[str, Interval]]:
        """Return the variance components by name."""
        return [
            ("system", self.components.system),
            ("interaction", self.components.interaction),
            ("noise", self.components.noise),
        ]


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
    """Estimate whether prompts differ on a task, which examples separate them, and how much a search may gain.

    Args:
        task: a task, or the path of a task file.
        model: the model that the prompt is for, or its name.
        writer: writes the prompts to try; by default the task model.
        budget: the most to use, such as `"500 calls"`; required for models that cost money.
        systems: prompts to try, at least 4: the seed prompt and others made for the probe.
        replicates: most replies per prompt and example, at least 2.
        examples: most training examples, at least 2, sampled at random.
        prune: try random prunings of the seed prompt, which needs no writer.
        worth: smallest standard deviation between prompts that is worth a search.
        seed: random seed.
        memo: where replies are stored, as in `optimize`.
        display: shows progress; None is silent.

    Returns:
        The diagnosis, with its verdict and advice.

    Raises:
        InputError: an argument cannot be used, or too few prompts could be made.
        PermanentModelError, TransientModelError: a model cannot be used at all.
    """
    sampled_task = _with_at_most(read_task(task), examples, seed)
    if sampled_task.program is not None:
        raise InputError(
            "diagnose compares wordings of one prompt, and the task has a program of several: run a search instead"
        )
    task_model = read_model(model)
    writer_model = without_batches(task_model if writer is None else read_model(writer))
    limit = read_budget(budget)
    models = [task_model] if prune else [task_model, writer_model]
    _refuse_unlimited(models, limit, systems * len(sampled_task.train) * replicates)
    with display or nullcontext(), nullcontext(memo) if isinstance(memo, Memo) else Memo(memo) as store:
        caller = Caller(store, Ledger(limit), watch=nothing if display is None else display.refresh)
        scorer, rng = Scorer(sampled_task, task_model, caller), named_generator(seed, "diagnose")
        run = Run(sampled_task, rng, seed, scorer, writer_model, watch=nothing if display is None else display.show)
        if display is not None:
            display.follow(run)
        prompts = (pruned_candidates if prune else varied_candidates)(run, systems)
        if len(prompts) < 4:  # noqa: PLR2004  two to choose the subset and two to check it, as in P1
            fix = "the seed prompt has too few words" if prune else "use a better writer (--writer), or --pruned"
            raise InputError(f"only {len(prompts)} of {systems} prompts could be made: {fix}")
        probed = probe(run, prompts, replicates)
        calls = run.ledger.total(run.ledger.logical).calls
    return diagnosis(probed, sampled_task, worth, calls)


def diagnosis(probed: Probe, task: Task, min_effect_sd: float, calls: int) -> Diagnosis:
    """Return the diagnosis of a task.

    Args:
        probed: rewards of prompts on the training examples.
        task: whose training examples were probed.
        min_effect_sd: smallest standard deviation of prompt quality that is worth a search.
        calls: model calls made.
    """
    matrix, shrunken = covariance(probed.rewards), shrunken_covariance(probed.rewards)
    off_diagonal = shrunken - np.diag(np.diag(shrunken))
    p1 = P1(inner="random", subset=min(2, len(task.train)))
    subset = p1.choose(probed.rewards)
    return Diagnosis(
        probe=probed,
        components=components(probed.rewards),
        ids=tuple(example.id for example in task.train),
        p_values=discrimination_p_values(probed.rewards),
        prompt_variances=np.diag(matrix).copy(),
        agreement=off_diagonal.sum(axis=1) / (len(matrix) - 1),
        subset=tuple(task.train[k].id for k in subset or ()),
        held_out=p1.held_out(probed.rewards),
        min_effect_sd=min_effect_sd,
        calls=calls,
    )


def _with_at_most(task: Task, max_examples: int, seed: int) -> Task:
    """Return the task with at most `max_examples` training examples, sampled by the seed."""
    if len(task.train) < 2:  # noqa: PLR2004  a covariance needs two examples
        raise InputError(f"a diagnosis needs at least 2 training examples, not {len(task.train)}")
    if len(task.train) <= max_examples:
        return task
    sampled = named_generator(seed, "sample to diagnose").choice(len(task.train), size=max_examples, replace=False)
    return replace(task, train=tuple(task.train[k] for k in sorted(sampled.tolist())))


def _refuse_unlimited(models: Sequence[Model], budget: Budget, calls: int) -> None:
    if budget == Budget() and any(model.price is None or any(model.price) for model in models):
        raise InputError(
            f"the model costs money and no budget is set: this takes up to {calls:,} calls; set one, such as "
            f"--budget '{calls} calls', or lower --systems, --examples or --replicates"
        )


def _sd(variance: float) -> float:
    return math.sqrt(max(0.0, variance))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
