"""PPD: prompt tokens, each with its own distribution, and pseudo-labels, learnt in turns from unlabelled texts.

Zhang et al. 2024, "On Unsupervised Prompt Learning for Classification with Black-box Language Models" (arXiv 2410.03124v1),
with the discrete part of BDPL (Diao et al., TMLR 2023).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.prompt import Demonstrations
from promptopt.search.categorical import clipped, modal, policy_gradient, project_to_simplex, sample, uniform
from promptopt.search.pseudo_labels import confident, cross_entropy, refuse_what_needs_labels, with_words
from promptopt.search.vocabulary import pmi_vocabulary
from promptopt.statistics.arrays import nanmean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats

_CLIP = 3.0  # longest gradient (BDPL, code)
_DECAYS = (0.9, 0.999)  # of Adam's two means (BDPL, code)
_SMALL = 1e-8  # of Adam's denominator


@dataclass(frozen=True, kw_only=True)
class PPD:
    """Policy gradient on the simplex over prompt tokens, with the nearest confident items shown in training as in use.

    The skeleton stands in the paper: tokens with categorical distributions; confident pseudo-labels; the k nearest as
    demonstrations, in training too; cross-entropy to the pseudo-labels; a variance-reduced policy gradient; the rest
    relabelled. A RECONSTRUCTION, because neither code nor the paper's appendix was to be had: the measure of confidence
    (largest label probability), its quota, tf-idf as likeness, when labels change hands, and all of the schedule. The
    discrete part follows BDPL's released code, less its division by zero, with an exact projection, and with the loss
    of normalised probabilities (the code takes probabilities for logits).

    Not for use where anything is at stake: by the paper's own table 3, as its reviewers note, it does not beat the plain
    prompt on five of its data sets, and it returns its prompt whether or not that is better. `unsupervised` is guarded.

    Args:
        positions: prompt tokens (BDPL, authors' setting for MRPC: 20).
        vocabulary: phrases to choose from (same: 100).
        samples: prompts drawn in a step (same: 30).
        batch: items in a step (same: 16).
        rate: of Adam (same: 1e-3).
        neighbours: demonstrations of each query (paper: 3).
        share: of the items, that is confident at first (reconstruction: 0.25).
        sure: confidence from which an item joins them (reconstruction: 0.9).
        epochs: over the confident items, at most (BDPL: 10).
        replicates: votes of each cell, for models without log-probabilities.
    """

    writes: ClassVar[bool] = False
    unlabelled: ClassVar[bool] = True

    positions: int = 20
    vocabulary: int = 100
    samples: int = 30
    batch: int = 16
    rate: float = 1e-3
    neighbours: int = 3
    share: float = 0.25
    sure: float = 0.9
    epochs: int = 10
    replicates: int = 1

    def __post_init__(self) -> None:
        for name in ("positions", "vocabulary", "batch", "neighbours", "epochs", "replicates"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.samples < 2:  # noqa: PLR2004  losses are centred
            raise InputError(f"samples must be at least 2, not {self.samples}")
        if self.rate <= 0 or not 0 < self.share <= 1:
            raise InputError(f"rate must be above 0 and share in (0, 1], not {self.rate} and {self.share}")

    def search(self, run: Run) -> None:
        """Alternate between tokens and labels until the labels stay, then score the likeliest prompt."""
        refuse_what_needs_labels(run.task)
        seed = best = run.task.seed_prompt
        state = self._start(run)
        try:
            for _ in range(self.epochs):
                near = tuple(state.labelled(run.task.labels)[i] for i in sorted(state.sure))
                shown = replace(seed, demonstrations=Demonstrations(near, min(self.neighbours, len(near))))
                self._epoch(run, state, shown)
                prompt = with_words(shown, [state.words[j] for j in modal(state.p)])
                said = run.label_probabilities([prompt], state.items, self.replicates)[0]
                best = prompt  # asked of all items: to score it below is free, even where the budget ends
                if not self._relabel(state, said):
                    break
        except BudgetExhaustedError:
            run.step(ended="the budget")
        known = state.labelled(run.task.labels)
        run.score([best], known, self.replicates)  # against the pseudo-labels
        sure = state.beliefs.max(axis=1).round(4).tolist()
        rows = [(item.id, item.target, confidence) for item, confidence in zip(known, sure, strict=True)]
        run.step(pseudo_labels=json.dumps(rows))

    def _start(self, run: Run) -> _State:
        """Let the seed prompt label all items, and find the confident ones among them."""
        items = [replace(item, target=None) for item in run.task.train]
        words = self._vocabulary(run, items)
        beliefs = run.label_probabilities([run.task.seed_prompt], items, self.replicates)[0]
        beliefs = np.where(np.isnan(beliefs), 1.0 / beliefs.shape[1], beliefs)
        sure = {i for column in confident(beliefs, self.share) for i in column}
        return _State(items, words, beliefs, sure, uniform(self.positions, len(words)), _Adam(self.rate))

    def _vocabulary(self, run: Run, items: Sequence[Example]) -> list[str]:
        texts = [" ".join(item.inputs.values()) for item in items]
        slots = [f"{{{name}}}" for name in run.task.fields]
        words = [w for w in pmi_vocabulary(texts, self.vocabulary) if not any(slot in w for slot in slots)]
        if not words:
            raise InputError("no phrase occurs more than 5 times in the training items: give more of them")
        return words

    def _epoch(self, run: Run, state: _State, shown: Prompt) -> None:
        """Go once over the confident items, a step of the tokens' distributions for each batch."""
        order = run.rng.permutation(sorted(state.sure))
        for start in range(0, len(order), self.batch):
            batch = order[start : start + self.batch].tolist()
            chosen = sample(state.p, self.samples, run.rng)
            prompts = [with_words(shown, [state.words[j] for j in row]) for row in chosen]
            answers = run.label_probabilities(prompts, [state.items[i] for i in batch], self.replicates)
            pseudo = np.eye(answers.shape[2])[state.beliefs[batch].argmax(axis=1)]
            losses = cross_entropy(answers, pseudo)
            # Every prompt meets the same batch, so that the mean loss is a baseline for each.
            gradient = clipped(policy_gradient(state.p, chosen, losses), _CLIP)
            state.p = project_to_simplex(state.adam.descended(state.p, gradient))
            run.step(loss=nanmean(losses, axis=0).item(), surest=float(state.p.max()))

    def _relabel(self, state: _State, said: Floats) -> bool:
        """Give items that are not confident their new answers, let the sure ones join; return whether a label changed."""
        rest = [i for i in range(len(said)) if i not in state.sure and np.isfinite(said[i]).all()]
        before = state.beliefs.argmax(axis=1)
        state.beliefs[rest] = said[rest]
        joined = {i for i in rest if said[i].max() >= self.sure}
        state.sure |= joined
        return bool(joined) or bool((state.beliefs.argmax(axis=1) != before).any())


@dataclass
class _State:
    """What the search has learnt.

    Args:
        items: [E], without targets.
        words: [N] of the vocabulary.
        beliefs: [E, L] label probabilities.
        sure: numbers of the confident items, whose labels stay.
        p: [n, N] distributions of the tokens.
        adam: moves them.
    """

    items: Sequence[Example]
    words: Sequence[str]
    beliefs: Floats
    sure: set[int]
    p: Floats
    adam: _Adam

    def labelled(self, labels: Sequence[str]) -> list[Example]:
        """Return the items with their likeliest labels."""
        best = self.beliefs.argmax(axis=1).tolist()
        return [replace(item, target=labels[y]) for item, y in zip(self.items, best, strict=True)]


@dataclass
class _Adam:
    """Adam without weight decay (Kingma and Ba 2015, alg. 1), as in BDPL's script for GPT."""

    rate: float
    steps: int = 0
    mean: Floats | float = 0.0
    square: Floats | float = 0.0

    def descended(self, p: Floats, gradient: Floats) -> Floats:
        """Return p after one step."""
        a, b = _DECAYS
        self.steps += 1
        self.mean = a * self.mean + (1 - a) * gradient
        self.square = b * self.square + (1 - b) * gradient**2
        scale = np.sqrt(self.square / (1 - b**self.steps)) + _SMALL
        moved: Floats = p - self.rate * (self.mean / (1 - a**self.steps)) / scale
        return moved
