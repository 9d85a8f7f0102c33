"""The label probabilities that prompts gave, and what they imply: consensus labels, and estimates of accuracy without labels.

Answers are not rewards, so they are not in the run's archive. Knows nothing of how prompts are searched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from promptopt.statistics import mean_interval, paired_interval, widen_by_jackknife
from promptopt.statistics.annotators import calibrated, dawid_skene, votes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.search.run import Run
    from promptopt.statistics import Interval
    from promptopt.statistics.annotators import Votes
    from promptopt.statistics.arrays import Floats

CONFIDENCE = 0.95  # of all intervals


@dataclass
class AnswerTable:
    """All answers so far, by prompt and example.

    Args:
        run: asks the model.
        examples: [E], without targets.
        replicates: votes per cell.
        probabilities: prompt -> label probabilities [E, L]; NaN where the prompt was not run, or failed.
        asked: prompt -> indices of the examples on which it was run.
    """

    run: Run
    examples: Sequence[Example]
    replicates: int
    probabilities: dict[Prompt, Floats] = field(default_factory=dict)
    asked: dict[Prompt, set[int]] = field(default_factory=dict)

    def ask(self, prompts: Sequence[Prompt], indices: Sequence[int]) -> Floats:
        """Return the label probabilities of every prompt on these examples, [P, B, L]."""
        probabilities = self.run.label_probabilities(prompts, [self.examples[i] for i in indices], self.replicates)
        for prompt, rows in zip(prompts, probabilities, strict=True):
            empty = np.full((len(self.examples), len(self.run.task.labels)), np.nan)
            self.probabilities.setdefault(prompt, empty)[list(indices)] = rows
            self.asked.setdefault(prompt, set()).update(indices)
        return probabilities

    def complete(self, prompts: Sequence[Prompt], indices: Sequence[int]) -> Floats:
        """Ask what is missing of every prompt on these examples, and return their label probabilities, [P, B, L]."""
        incomplete = [prompt for prompt in prompts if not self.has(prompt, indices)]
        missing = [i for i in indices if any(not self.has(prompt, [i]) for prompt in incomplete)]
        if missing:
            self.ask(incomplete, missing)
        return np.array([self.answers(prompt, indices) for prompt in prompts])

    def answers(self, prompt: Prompt, indices: Sequence[int]) -> Floats:
        """Return the label probabilities of a prompt on these examples, [B, L]."""
        return self.probabilities[prompt][list(indices)]

    def calibrated(self, prompt: Prompt, indices: Sequence[int]) -> Floats:
        """Return the label probabilities on these examples, calibrated on all that the prompt was run on, [B, L]."""
        return calibrated(self.probabilities[prompt])[list(indices)]

    def has(self, prompt: Prompt, indices: Sequence[int]) -> bool:
        """Tell whether the prompt was run on all these examples."""
        return self.asked.get(prompt, set()) >= set(indices)

    def text(self, number: int) -> str:
        """Return the fields of an example as one text."""
        return " ".join(self.examples[number].inputs.values())

    def consensus(self, indices: Sequence[int], without: Sequence[Prompt] = ()) -> Floats:
        """Return soft labels [B, L] of these examples, by all prompts that were run on them, except `without`.

        With fewer than two such prompts: the calibrated answers of the seed prompt.
        """
        answers = [self.answers(prompt, indices) for prompt in self._annotators(indices, without)]
        labels = len(self.run.task.labels)
        if len(answers) < 2:  # noqa: PLR2004  a consensus needs two annotators
            return _fill_failed(self.calibrated(self.run.task.seed_prompt, indices))
        votes = [np.where(votes_of(rows) < 0, -1, votes_of(calibrated(rows))) for rows in answers]
        return dawid_skene(np.array(votes), labels).posterior

    def interval_over_annotators(
        self, indices: Sequence[int], without: Sequence[Prompt], interval_of: Callable[[Floats], Interval]
    ) -> Interval:
        """Return an interval that also covers the sampling of annotators, by the jackknife.

        Args:
            indices: indices of the examples.
            without: prompts that are no annotators.
            interval_of: the interval given soft labels [B, L] of the examples.
        """
        leave_one_out = [
            interval_of(self.consensus(indices, (*without, annotator))).estimate
            for annotator in self._annotators(indices, without)
        ]
        return widen_by_jackknife(interval_of(self.consensus(indices, without)), leave_one_out, CONFIDENCE)

    def _annotators(self, indices: Sequence[int], without: Sequence[Prompt]) -> list[Prompt]:
        return [prompt for prompt in self.probabilities if prompt not in without and self.has(prompt, indices)]

    def expected_correct(self, prompt: Prompt, indices: Sequence[int], beliefs: Floats) -> Floats:
        """Return the probability that each answer is correct, [B]: 0 if it names no label, NaN if the reply failed."""
        rows = self.answers(prompt, indices)
        votes: Votes = votes_of(rows)
        probabilities = np.where(votes < 0, 0.0, beliefs[np.arange(len(votes)), votes])
        return np.where(np.isnan(rows).any(axis=1), np.nan, probabilities)

    def accuracy(self, prompt: Prompt, indices: Sequence[int], without: Sequence[Prompt]) -> Interval:
        """Return the interval of the prompt's accuracy on these examples; `without` are no annotators."""

        def accuracy(beliefs: Floats) -> Interval:
            return mean_interval(self.expected_correct(prompt, indices, beliefs), CONFIDENCE)

        return self.interval_over_annotators(indices, without, accuracy)

    def gain(self, prompt: Prompt, rival: Prompt, indices: Sequence[int]) -> Interval:
        """Return the interval of the difference in accuracy between two prompts, which are no annotators."""

        def gain(beliefs: Floats) -> Interval:
            correct = self.expected_correct(prompt, indices, beliefs)
            return paired_interval(correct, self.expected_correct(rival, indices, beliefs), CONFIDENCE)

        return self.interval_over_annotators(indices, (rival, prompt), gain)

    def estimated_accuracy(self, prompt: Prompt, indices: Sequence[int]) -> float:
        """Return the prompt's accuracy on these examples against the consensus of the others."""
        beliefs = self.consensus(indices, (self.run.task.seed_prompt, prompt))
        return float(np.nanmean(self.expected_correct(prompt, indices, beliefs)))

    def labels(self, folds: Sequence[Sequence[int]]) -> list[tuple[str, str, float]]:
        """Return (id, label, confidence) of each example by the consensus in its fold, in the order of the examples."""
        beliefs = np.zeros((len(self.examples), len(self.run.task.labels)))
        for fold in folds:
            beliefs[list(fold)] = self.consensus(fold)
        names = self.run.task.labels
        return [
            (example.id, names[int(row.argmax())], round(float(row.max()), 4))
            for example, row in zip(self.examples, beliefs, strict=True)
        ]


def _fill_failed(beliefs: Floats) -> Floats:
    """Return beliefs [B, L] with uniform rows where the reply failed."""
    return np.where(np.isnan(beliefs), 1.0 / beliefs.shape[1], beliefs)
