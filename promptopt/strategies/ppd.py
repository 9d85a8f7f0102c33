"""PPD: alternately learn pseudo-labels and a categorical distribution for each prompt token, from unlabelled texts.

Zhang et al. 2024, "On Unsupervised Prompt Learning for Classification with Black-box Language Models" (arXiv 2410.03124v1),
with the discrete part of BDPL (Diao et al., TMLR 2023).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.prompt import Demonstrations
from promptopt.search.categorical import clipped, modal, policy_gradient, project_to_simplex, sample, uniform
from promptopt.search.pseudo_labels import confident, cross_entropy, refuse_what_needs_labels, with_words
from promptopt.search.vocabulary import pmi_vocabulary
from promptopt.statistics.arrays import nanmean
from promptopt.strategies.checks import check_at_least, check_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats

_MAX_GRADIENT_NORM = 3.0  # (BDPL, code)
_BETAS = (0.9, 0.999)  # of Adam (BDPL, code)
_EPSILON = 1e-8  # of Adam


@dataclass(frozen=True, kw_only=True)
class PPD:
    """Policy gradient over prompt tokens, with the nearest confident examples as demonstrations in training and in use.

    From the paper: tokens with categorical distributions; confident pseudo-labels; the k nearest confident examples as
    demonstrations, in training too; cross-entropy to the pseudo-labels; a variance-reduced policy gradient; relabelling of
    the other examples. A RECONSTRUCTION, because neither code nor the paper's appendix was available: the confidence
    measure (largest label probability), its quota, tf-idf similarity, when labels are updated, and the whole schedule. The
    discrete part follows BDPL's released code, without its division by zero, with an exact projection, and with the loss
    on normalized probabilities (the code treats probabilities as logits).

    Not for production use: in the paper's own table 3, as its reviewers note, it does not beat the plain prompt on five of
    its data sets, and it returns its prompt whether or not that is better. `unsupervised` has a safeguard.

    Args:
        positions: prompt tokens (BDPL, authors' setting for MRPC: 20).
        vocabulary: phrases to choose from (BDPL: 100).
        samples: prompts drawn per step (BDPL: 30).
        batch: examples per step (BDPL: 16).
        rate: learning rate of Adam (BDPL: 1e-3).
        neighbours: demonstrations per query (paper: 3).
        share: share of the examples that is confident initially (reconstruction: 0.25).
        sure: confidence at which another example becomes confident (reconstruction: 0.9).
        epochs: most epochs over the confident examples (BDPL: 10).
        replicates: votes per cell, for models without log-probabilities.
    """

    writes = False
    unlabelled = True

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
        check_at_least(self, 1, "positions", "vocabulary", "batch", "neighbours", "epochs", "replicates")
        check_at_least(self, 2, "samples")  # losses are centred
        check_share(self, "share")
        if self.rate <= 0:
            raise InputError(f"rate must be above 0, not {self.rate}")

    def search(self, run: Run) -> None:
        """Alternate between tokens and labels until the labels stop changing, then score the most likely prompt."""
        refuse_what_needs_labels(run.task)
        seed = best = run.task.seed_prompt
        state = self._start(run)
        try:
            for _ in range(self.epochs):
                pool = tuple(state.labelled(run.task.labels)[i] for i in sorted(state.confident))
                base = replace(seed, demonstrations=Demonstrations(pool, min(self.neighbours, len(pool))))
                self._epoch(run, state, base)
                prompt = with_words(base, [state.words[int(j)] for j in modal(state.p)])
                probabilities = run.label_probabilities([prompt], state.examples, self.replicates)[0]
                best = prompt  # run on all examples, so scoring it below is free even after the end of the budget
                if not self._relabel(state, probabilities):
                    break
        except BudgetExhaustedError:
            run.step(ended="the budget")
        labelled = state.labelled(run.task.labels)
        run.score([best], labelled, self.replicates)  # against the pseudo-labels
        confidences = state.beliefs.max(axis=1).round(4).tolist()
        rows = [(example.id, example.target, value) for example, value in zip(labelled, confidences, strict=True)]
        run.step(pseudo_labels=json.dumps(rows))

    def _start(self, run: Run) -> _State:
        """Label all examples with the seed prompt, and find the confident ones."""
        examples = [replace(example, target=None) for example in run.task.train]
        words = self._vocabulary(run, examples)
        beliefs = run.label_probabilities([run.task.seed_prompt], examples, self.replicates)[0]
        beliefs = np.where(np.isnan(beliefs), 1.0 / beliefs.shape[1], beliefs)
        confident_indices = {i for indices in confident(beliefs, self.share) for i in indices}
        return _State(
            examples, words, beliefs, confident_indices, uniform(self.positions, len(words)), _Adam(self.rate)
        )

    def _vocabulary(self, run: Run, examples: Sequence[Example]) -> list[str]:
        texts = [" ".join(example.inputs.values()) for example in examples]
        slots = [f"{{{name}}}" for name in run.task.fields]
        words = [w for w in pmi_vocabulary(texts, self.vocabulary) if not any(slot in w for slot in slots)]
        if not words:
            raise InputError("no phrase occurs more than 5 times in the training examples: add more examples")
        return words

    def _epoch(self, run: Run, state: _State, base: Prompt) -> None:
        """Update the tokens' distributions once per batch of the confident examples."""
        order = run.rng.permutation(sorted(state.confident))
        for start in range(0, len(order), self.batch):
            batch = order[start : start + self.batch].tolist()
            chosen = sample(state.p, self.samples, run.rng)
            prompts = [with_words(base, [state.words[int(j)] for j in row]) for row in chosen]
            answers = run.label_probabilities(prompts, [state.examples[i] for i in batch], self.replicates)
            pseudo = np.eye(answers.shape[2])[state.beliefs[batch].argmax(axis=1)]
            losses = cross_entropy(answers, pseudo)
            # All prompts share the batch, so their mean loss is a baseline for each.
            gradient = clipped(policy_gradient(state.p, chosen, losses), _MAX_GRADIENT_NORM)
            state.p = project_to_simplex(state.adam.step(state.p, gradient))
            run.step(loss=nanmean(losses, axis=0).item(), surest=float(state.p.max()))

    def _relabel(self, state: _State, probabilities: Floats) -> bool:
        """Update the labels of examples that are not confident, and add those that now are.

        Args:
            state: is updated.
            probabilities: [E, L] of the labels; NaN where the reply failed.

        Returns:
            Whether a label changed or an example became confident.
        """
        others = [
            i for i in range(len(probabilities)) if i not in state.confident and np.isfinite(probabilities[i]).all()
        ]
        labels_before = state.beliefs.argmax(axis=1)
        state.beliefs[others] = probabilities[others]
        newly_confident = {i for i in others if probabilities[i].max() >= self.sure}
        state.confident |= newly_confident
        return bool(newly_confident) or bool((state.beliefs.argmax(axis=1) != labels_before).any())


@dataclass
class _State:
    """The state of the search.

    Args:
        examples: [E], without targets.
        words: [N] vocabulary.
        beliefs: [E, L] label probabilities.
        confident: indices of the confident examples, whose labels are fixed.
        p: [n, N] distributions of the tokens.
        adam: the optimizer of `p`.
    """

    examples: Sequence[Example]
    words: Sequence[str]
    beliefs: Floats
    confident: set[int]
    p: Floats
    adam: _Adam

    def labelled(self, labels: Sequence[str]) -> list[Example]:
        """Return the examples with their most likely labels as targets."""
        best = self.beliefs.argmax(axis=1).tolist()
        return [replace(example, target=labels[y]) for example, y in zip(self.examples, best, strict=True)]


@dataclass
class _Adam:
    """Adam without weight decay (Kingma and Ba 2015, alg. 1), as in BDPL's script for GPT."""

    rate: float
    steps: int = 0
    mean: Floats | float = 0.0
    square: Floats | float = 0.0

    def step(self, p: Floats, gradient: Floats) -> Floats:
        """Return p after one step."""
        beta1, beta2 = _BETAS
        self.steps += 1
        self.mean = beta1 * self.mean + (1 - beta1) * gradient
        self.square = beta2 * self.square + (1 - beta2) * gradient**2
        scale = np.sqrt(self.square / (1 - beta2**self.steps)) + _EPSILON
        updated: Floats = p - self.rate * (self.mean / (1 - beta1**self.steps)) / scale
        return updated
