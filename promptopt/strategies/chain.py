"""The record of one hill-climbing chain: shrunken scores of its prompts, and the examples that tell them apart.

Knows scores and examples, but not which prompts are scored on what, or what the writer is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.replies import Response
from promptopt.rewards import LabelMargin
from promptopt.search.surrogate import Change, Surrogate, fit_surrogate
from promptopt.search.writing import ScoredPrompt, example_results
from promptopt.statistics import shrunken_means
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.scores import Scores
    from promptopt.search.archive import Archive
    from promptopt.search.run import Run
    from promptopt.search.writing import ExampleResult
    from promptopt.statistics.arrays import Floats

_DIGITS = 9  # scores are rounded, so that floating-point noise changes neither a ranking nor the message to the writer


class _Evaluated(NamedTuple):
    """What a chain evaluated a prompt on: indices of the examples, and the mean label margin on them."""

    indices: Sequence[int]
    margin: float


@dataclass
class Chain:
    """The prompts that a chain has evaluated.

    Their rewards are in the run's archive. Chains are independent: what only another chain measured is not used.

    Args:
        examples: [E] training examples, shuffled.
        labels: of the task.
        archive: of the run.
        evaluated: the prompts, in order.
        gains: measured changes from a rival prompt to a new one, each with its gain on the first examples; chains may share
            this list, because the surrogate learns from all of them.
    """

    examples: Sequence[Example]
    labels: tuple[str, ...]
    archive: Archive
    evaluated: dict[Prompt, _Evaluated] = field(default_factory=dict)
    gains: list[tuple[Change, float]] = field(default_factory=list)

    def add(self, scores: Scores) -> None:
        """Add prompts that were scored; a prompt's later scores are on more examples."""
        index_of = {example.id: e for e, example in enumerate(self.examples)}
        indices = [index_of[example.id] for example in scores.examples]
        for row, prompt in enumerate(scores.prompts):
            self.evaluated[prompt] = _Evaluated(indices, _label_margin(scores, row, self.labels))

    def mean(self, prompt: Prompt) -> float:
        """Return the measured mean reward, without shrinkage."""
        return float(nanmean(self._rewards([prompt]), axis=1)[0])

    def ranked(self) -> list[ScoredPrompt]:
        """Return the prompts that have a score, best first: by shrunken score, then label margin, then measured mean.

        The first is always the best of those evaluated on the most examples: a high mean on a few examples may be luck.
        """
        prompts, rewards = self._reward_table()
        scores = (shrunken_means(rewards).round(_DIGITS) + 0.0).tolist()  # no -0
        means = nanmean(rewards, axis=1).tolist()
        keys = [
            (-score, -self.evaluated[prompt].margin, -mean)
            for prompt, score, mean in zip(prompts, scores, means, strict=True)
        ]
        order = sorted(range(len(prompts)), key=keys.__getitem__)
        example_counts = [len(self.evaluated[prompt].indices) for prompt in prompts]
        first = max(order, key=example_counts.__getitem__, default=None)  # `max` keeps the first of equals
        return [ScoredPrompt(prompts[p], scores[p]) for p in sorted(order, key=lambda p: p != first)]

    def front(self, ranked: Sequence[ScoredPrompt]) -> list[Prompt]:
        """Return the front of the prompts evaluated on the most examples; without further objectives, the best one alone.

        Args:
            ranked: the prompts, best first.
        """
        if not self.archive.objectives:
            return [ranked[0].prompt]
        most = max(len(evaluated.indices) for evaluated in self.evaluated.values())
        complete = [prompt for prompt, _ in ranked if len(self.evaluated[prompt].indices) == most]
        return [candidate.prompt for candidate in self.archive.front(complete)]

    def ahead(self, prompts: Sequence[Prompt], rival: Prompt) -> list[Prompt]:
        """Return the prompts that beat a rival on the same examples, best first: by gain, then by label margin.

        With further objectives, those that beat it in any of them (`Archive.ahead`).
        """
        if self.archive.objectives:
            return self.archive.ahead(prompts, rival, self.examples)
        gains = np.nan_to_num(self._gains_over(rival, prompts), nan=-np.inf).tolist()
        margin = self.evaluated[rival].margin
        lead = {
            prompt: (gain, self.evaluated[prompt].margin - margin) for prompt, gain in zip(prompts, gains, strict=True)
        }
        return [prompt for prompt in sorted(prompts, key=lead.__getitem__, reverse=True) if lead[prompt] > (0, 0)]

    def record_gains(self, prompts: Sequence[Prompt], rival: Prompt) -> None:
        """Record the gains of prompts over a rival, for the surrogate; all prompts are evaluated on the same examples."""
        rival_mean = self.mean(rival)
        for prompt, gain in zip(prompts, self._gains_over(rival, prompts).tolist(), strict=True):
            if not math.isnan(rival_mean + gain):
                self.gains.append((Change(prompt.text, rival.text, rival_mean), gain))

    def forecast(self) -> Surrogate | None:
        """Return a surrogate of the gains, or None while it does not predict the measured gains."""
        model = fit_surrogate([change for change, _ in self.gains], [gain for _, gain in self.gains])
        return model if model and model.trusted else None

    def _gains_over(self, rival: Prompt, prompts: Sequence[Prompt]) -> Floats:
        """Return each prompt's mean gain over a rival on the examples of both, [P]; NaN where they share none."""
        return nanmean(self._rewards(prompts) - self._rewards([rival]), axis=1).round(_DIGITS)

    def contrast(self, run: Run, prompt: Prompt, count: int) -> tuple[list[ExampleResult], list[ExampleResult]]:
        """Return at most `count` examples that a prompt loses, and as many on which it beats the other prompts' mean.

        Examples with the largest difference from the other prompts' mean come first; ties are broken at random.
        """
        prompts, rewards = self._reward_table()
        own = rewards[prompts.index(prompt)]
        others = np.delete(rewards, prompts.index(prompt), axis=0)
        gain = np.nan_to_num(own - nanmean(others, axis=0)) if len(others) else np.zeros(len(own))
        shuffled = run.rng.permutation(len(own)).tolist()
        lost = [e for e in shuffled if own[e] < np.nanmax(rewards)]  # False where the reward is NaN
        won = [e for e in shuffled if gain[e] > 0]
        losses = sorted(lost, key=lambda e: (gain[e], own[e]))[:count]
        wins = sorted(won, key=lambda e: -gain[e])[:count]
        lost_examples, won_examples = ([self.examples[e] for e in indices] for indices in (losses, wins))
        return (
            example_results(run, prompt, lost_examples, np.nanargmin),
            example_results(run, prompt, won_examples, np.nanargmax),
        )

    def ordered_for_screening(self, run: Run, prompt: Prompt, shown_examples: Sequence[Example]) -> list[Example]:
        """Return all examples in the order in which to evaluate proposals made from a prompt.

        Two examples that the prompt loses alternate with one that it does not lose, because a proposal should improve on
        the losses. Losses that the writer was shown come first; the rest is in random order.
        """
        own = self._rewards([prompt])[0]
        best = np.fmax.reduce(self._reward_table()[1], axis=None, initial=-np.inf)
        shuffled = run.rng.permutation(len(own)).tolist()
        lost = sorted((e for e in shuffled if own[e] < best), key=lambda e: self.examples[e] not in shown_examples)
        others = [e for e in shuffled if e not in lost]
        sort_keys = {e: (n // 2, 0) for n, e in enumerate(lost)} | {e: (n, 1) for n, e in enumerate(others)}
        return [self.examples[e] for e in sorted(sort_keys, key=sort_keys.__getitem__)]

    def sample_examples(self, run: Run, count: int) -> list[Example]:
        """Return `count` random examples, or all of them where there are fewer."""
        size = min(count, len(self.examples))
        return [self.examples[i] for i in run.rng.choice(len(self.examples), size=size, replace=False)]

    def _rewards(self, prompts: Sequence[Prompt]) -> Floats:
        """Return rewards [P, E], means over replicates; NaN where the chain has not evaluated a prompt."""
        rewards = np.full((len(prompts), len(self.examples)), np.nan)
        known = self.archive.rewards(prompts, self.examples)
        for p, prompt in enumerate(prompts):
            indices = self.evaluated[prompt].indices
            rewards[p, indices] = known[p, indices]
        return rewards

    def _reward_table(self) -> tuple[list[Prompt], Floats]:
        """Return the prompts that have a score, [P], and their rewards [P, E]; NaN where not evaluated."""
        prompts = list(self.evaluated)
        rewards = self._rewards(prompts)
        scored = np.flatnonzero(~np.isnan(rewards).all(axis=1))
        return [prompts[p] for p in scored], rewards[scored]


def _label_margin(scores: Scores, row: int, labels: tuple[str, ...]) -> float:
    """Return the mean label margin over the replies with log-probabilities; 0 where there are none."""
    margins = [
        LabelMargin(labels, wrong=1.0, right=1.0)(example, reply)
        for example, replies in zip(scores.examples, scores.replies[row], strict=True)
        for reply in replies
        if isinstance(reply, Response) and reply.label_logprobs is not None and example.target is not None
    ]
    return float(np.mean(margins)) if margins else 0.0
