"""What a chain of hill climbing has tried, and what it makes of it: shrunk scores, and items that tell prompts apart.

Knows scores and the items that they are on; not how they came about, nor what a writer is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.replies import Response
from promptopt.rewards import LabelMargin
from promptopt.search.surrogate import Change, Surrogate, fit_surrogate
from promptopt.search.writing import ScoredPrompt, example_result
from promptopt.statistics import shrunken_means
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.scores import Scores
    from promptopt.search.run import Run
    from promptopt.search.writing import ExampleResult
    from promptopt.statistics.arrays import Floats

_DIGITS = 9  # of scores, so that the last bits decide neither a tie nor what the writer reads


class _Tried(NamedTuple):
    """What became of a prompt.

    Args:
        scores: on the items that it met.
        row: of the prompt in `scores`.
        rewards: [E], means over replicates, NaN where it did not meet an item.
        margin: by how much the right labels are ahead.
    """

    scores: Scores
    row: int
    rewards: Floats
    margin: float


@dataclass
class Chain:
    """What a chain has tried, and what came of it.

    Args:
        order: [E] training items, shuffled.
        labels: of the task.
        tried: what became of each prompt.
        gains: of prompts over the one that they were to better, on the first items that they met; chains may share them,
            for what a word is worth.
    """

    order: Sequence[Example]
    labels: tuple[str, ...]
    tried: dict[Prompt, _Tried] = field(default_factory=dict)
    gains: list[tuple[Change, float]] = field(default_factory=list)

    def take(self, scores: Scores) -> None:
        """Take in scores on some items; what is known on more of them stays."""
        place = {example.id: e for e, example in enumerate(self.order)}
        met = [place[example.id] for example in scores.examples]
        for row, prompt in enumerate(scores.prompts):
            known = self.tried.get(prompt)
            if known is None or len(known.scores.examples) <= len(met):
                rewards = np.full(len(self.order), np.nan)
                rewards[met] = scores.per_example[row]
                self.tried[prompt] = _Tried(scores, row, rewards, _margin(scores, row, self.labels))

    def mean(self, prompt: Prompt) -> float:
        """Return the mean reward as measured."""
        return float(nanmean(self.tried[prompt].rewards[None], axis=1)[0])

    def ranked(self) -> list[ScoredPrompt]:
        """Return the prompts that got a score, the best first: by shrunk score, label margin, measured mean.

        In front of all stands the best of those that met the most items: a few lucky ones make no prompt the one to beat.
        """
        prompts, rewards = self._table()
        scores = (shrunken_means(rewards).round(_DIGITS) + 0.0).tolist()  # no -0
        means = nanmean(rewards, axis=1).tolist()
        keys = [
            (-score, -self.tried[prompt].margin, -mean)
            for prompt, score, mean in zip(prompts, scores, means, strict=True)
        ]
        order = sorted(range(len(prompts)), key=keys.__getitem__)
        met = [len(self.tried[prompt].scores.examples) for prompt in prompts]
        first = max(order, key=met.__getitem__, default=None)  # of equals, the first
        return [ScoredPrompt(prompts[p], scores[p]) for p in sorted(order, key=lambda p: p != first)]

    def ahead(self, prompts: Sequence[Prompt], rival: Prompt, count: int) -> list[Prompt]:
        """Return the best of prompts that met the same items, as far as they are ahead of a rival there."""
        margin = self.tried[rival].margin
        lead = {
            prompt: (gap, self.tried[prompt].margin - margin)
            for prompt, gap in zip(
                prompts, np.nan_to_num(self._gaps(prompts, rival), nan=-np.inf).tolist(), strict=True
            )
        }
        return [
            prompt for prompt in sorted(prompts, key=lead.__getitem__, reverse=True)[:count] if lead[prompt] > (0, 0)
        ]

    def learn(self, prompts: Sequence[Prompt], rival: Prompt) -> None:
        """Note what prompts that met the same items gained over a rival there, for the forecast."""
        known = self.mean(rival)
        for prompt, gap in zip(prompts, self._gaps(prompts, rival).tolist(), strict=True):
            if not math.isnan(known + gap):
                self.gains.append((Change(prompt.text, rival.text, known), gap))

    def forecast(self) -> Surrogate | None:
        """Return a forecast of gains that may be asked, or None while it does not foretell those that are known."""
        model = fit_surrogate([change for change, _ in self.gains], [gain for _, gain in self.gains])
        return model if model and model.trusted else None

    def _gaps(self, prompts: Sequence[Prompt], rival: Prompt) -> Floats:
        """Return by how much each prompt is ahead of a rival where both are known, [P]; NaN where that is nowhere."""
        own = np.array([self.tried[prompt].rewards for prompt in prompts])
        return nanmean(own - self.tried[rival].rewards, axis=1).round(_DIGITS)

    def contrast(self, run: Run, prompt: Prompt, count: int) -> tuple[list[ExampleResult], list[ExampleResult]]:
        """Return items on which a prompt falls short, and those on which it does better than the others.

        First those where it differs most from the mean of the others; among equals, chance decides.
        """
        prompts, rewards = self._table()
        own = rewards[prompts.index(prompt)]
        rest = np.delete(rewards, prompts.index(prompt), axis=0)
        gap = np.nan_to_num(own - nanmean(rest, axis=0)) if len(rest) else np.zeros(len(own))
        shuffled = run.rng.permutation(len(own)).tolist()
        short = [e for e in shuffled if own[e] < np.nanmax(rewards)]  # not where it is NaN
        ahead = [e for e in shuffled if gap[e] > 0]
        losses = sorted(short, key=lambda e: (gap[e], own[e]))[:count]
        wins = sorted(ahead, key=lambda e: -gap[e])[:count]
        return [self._seen(prompt, e, np.nanargmin) for e in losses], [
            self._seen(prompt, e, np.nanargmax) for e in wins
        ]

    def telling(self, run: Run, prompt: Prompt, told: Sequence[Example]) -> list[Example]:
        """Return all items in the order in which proposals that come from a prompt meet them.

        Two on which it falls short, then one on which it does not, and so on, for these are the ones to mend; those that
        the writer was told of come first, chance decides among the others.
        """
        own, best = self.tried[prompt].rewards, np.fmax.reduce(self._table()[1], axis=None, initial=-np.inf)
        shuffled = run.rng.permutation(len(own)).tolist()
        short = sorted((e for e in shuffled if own[e] < best), key=lambda e: self.order[e] not in told)
        other = [e for e in shuffled if e not in short]
        places = {e: (n // 2, 0) for n, e in enumerate(short)} | {e: (n, 1) for n, e in enumerate(other)}
        return [self.order[e] for e in sorted(places, key=places.__getitem__)]

    def draw(self, run: Run, count: int) -> list[Example]:
        """Return some items."""
        size = min(count, len(self.order))
        return [self.order[i] for i in run.rng.choice(len(self.order), size=size, replace=False)]

    def _seen(self, prompt: Prompt, e: int, which: Callable[[Floats], np.intp]) -> ExampleResult:
        """Return an item with one of its replicates."""
        scores, row, *_ = self.tried[prompt]
        e = scores.examples.index(self.order[e])
        r = int(which(scores.rewards[row, e]))
        cell = scores.replies[row][e][r], scores.reasons[row][e][r], float(scores.rewards[row, e, r])
        return example_result(scores.examples[e], *cell)

    def _table(self) -> tuple[list[Prompt], Floats]:
        """Return the prompts that got a score, [P], and their rewards [P, E], NaN where not tried."""
        out = np.full((len(self.tried), len(self.order)), np.nan)
        for p, known in enumerate(self.tried.values()):
            out[p] = known.rewards
        prompts, scored = list(self.tried), np.flatnonzero(~np.isnan(out).all(axis=1))
        return [prompts[p] for p in scored], out[scored]


def _margin(scores: Scores, row: int, labels: tuple[str, ...]) -> float:
    """Return by how much the right labels are ahead on average, where replies have log-probabilities; else 0."""
    gaps = [
        LabelMargin(labels, wrong=1.0, right=1.0)(example, reply)
        for example, replies in zip(scores.examples, scores.replies[row], strict=True)
        for reply in replies
        if isinstance(reply, Response) and reply.label_logprobs is not None and example.target is not None
    ]
    return float(np.mean(gaps)) if gaps else 0.0
