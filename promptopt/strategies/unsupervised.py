"""Unsupervised prompt learning: labels, demonstrations and prompt words from unlabelled texts.

After "On Unsupervised Prompt Learning for Classification with Black-box Language Models" (Zhang et al. 2024, arXiv
2410.03124v1), whose own algorithm is `ppd.PPD`. Nothing here uses the label of a training example.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.prompt import Demonstrations
from promptopt.search.categorical import modal, sample, toward_elite, uniform
from promptopt.search.pseudo_labels import (
    ExpectedCorrectness,
    confident,
    cross_entropy,
    refuse_what_needs_labels,
    with_words,
)
from promptopt.search.vocabulary import contrastive_vocabulary
from promptopt.statistics import mean_interval, paired_interval, widen_by_jackknife
from promptopt.statistics.annotators import (
    calibrated,
    chance_corrected_agreement,
    dawid_skene,
    is_collapsed,
    mutual_information,
    votes_of,
)
from promptopt.strategies.ppd import PPD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.prompt import Example, Prompt
    from promptopt.search.run import Run
    from promptopt.statistics import Interval
    from promptopt.statistics.annotators import Votes
    from promptopt.statistics.arrays import Floats

_CONFIDENCE = 0.95  # of the interval that the new prompt must pass
_SMALL = 1e-6
_FIRST_EXAMPLES = 16  # on which all sets of demonstrations are scored


class Folds(NamedTuple):
    """Indices of the training examples: two folds that label each other, and one that only checks."""

    first: list[int]
    second: list[int]
    check: list[int]


@dataclass(frozen=True, kw_only=True)
class Unsupervised:
    """Learn pseudo-labelled demonstrations and prefix words; keep them only if a confidence bound shows a gain.

    1. The seed prompt labels all examples; calibration removes its bias towards a label.
    2. Two folds label each other in turn. The most confident examples of each class in one fold form several small balanced
       sets of demonstrations. The prompts with these sets are the annotators (Dawid-Skene) of the other fold, so an
       example's own pseudo-label never influences its new one.
    3. More sets of demonstrations, of various sizes and orders, race by their uncalibrated answers: a set may bias the
       answers towards a label, which calibration would hide although the prompt is used without it.
    4. The cross-entropy method searches for words, among those that discriminate between the classes, that raise the
       likelihood of the consensus labels when placed before the prompt.
    5. The better of demonstrations alone and demonstrations with words, by the second fold, is compared with the seed
       prompt on a third fold that was not used so far. The annotators, without the two prompts themselves, label it. Unless
       the lower end of the 95 % interval of the paired difference is above 0, only the seed prompt is returned. The interval
       covers examples and annotators: it is wide if leaving out one annotator changes the consensus. The seed prompt is
       also returned if the new prompt nearly always gives one label, or agrees with the seed prompt's calibrated answers
       only by chance.

    What is not in the paper: calibration, quotas, cross-fitting, the race, contrastive words, the cross-entropy method,
    consensus, collapse detection and the bound. Calibration guides the search; the returned prompt is used without it.
    Demonstrations of the seed prompt itself are replaced. The last step holds the estimated accuracy with its interval, and
    the pseudo-labels (`pseudo_labels`, `write_fine_tuning`).

    Not for very unequal classes (calibration assumes equal ones), for fewer than a few hundred texts (the bound needs them),
    or if labels are available (they are more informative). Prompts of one model make the same errors, so accuracies are
    overestimated, and the bound can be wrong if the model errs in the same way under most prompts. Labelled validation data,
    if there are any, still decide.

    Args:
        rounds: number of times that one fold labels the other.
        views: sets of demonstrations in each round.
        shots: demonstrations of each label in a set.
        share: share of a fold that is confident enough for demonstrations.
        sets: sets of demonstrations that race, with 1 to 2 x `shots` - 1 examples of each label; 0 skips the race.
        positions: words before the prompt; 0 skips the word search.
        vocabulary: words to choose from.
        steps: of the word search.
        samples: word sequences drawn per step.
        batch: examples per step.
        elite: share of the sequences that update the sampling distribution.
        rate: weight of that update; 1 replaces the distribution.
        replicates: votes per cell, for models without log-probabilities (with a temperature above 0).
    """

    writes: ClassVar[bool] = False
    unlabelled: ClassVar[bool] = True

    rounds: int = 2
    views: int = 4
    shots: int = 2
    share: float = 0.3
    sets: int = 32
    positions: int = 4
    vocabulary: int = 60
    steps: int = 10
    samples: int = 12
    batch: int = 24
    elite: float = 0.25
    rate: float = 0.3
    replicates: int = 1

    def __post_init__(self) -> None:
        for name in ("rounds", "shots", "vocabulary", "steps", "samples", "batch", "replicates"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.views < 2:  # noqa: PLR2004  a consensus needs two annotators
            raise InputError(f"views must be at least 2, so that they can agree, not {self.views}")
        if self.rounds * self.views < 4:  # noqa: PLR2004  the best, and three annotators
            raise InputError(
                f"rounds x views must be at least 4, so that three others judge the best, not {self.rounds} x {self.views}"
            )
        for name in ("sets", "positions"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("share", "elite", "rate"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} must be in (0, 1], not {getattr(self, name)}")

    @staticmethod
    def paper() -> PPD:
        """Return the paper's algorithm, reconstructed where the paper leaves gaps."""
        return PPD()

    def search(self, run: Run) -> None:
        """Label, learn, check; score the seed prompt, and the new prompt if the bound shows a gain."""
        refuse_what_needs_labels(run.task)
        table = _AnswerTable(run, [replace(item, target=None) for item in run.task.train], self.replicates)
        seed = run.task.seed_prompt
        folds = _folds(len(table.examples), run.rng)
        table.ask([seed], range(len(table.examples)))
        rivals: list[Prompt] = []
        try:
            beliefs = calibrated(table.answers(seed))
            for number in range(self.rounds):
                source, target = (folds.first, folds.second) if number % 2 == 0 else (folds.second, folds.first)
                views = self._views(table, beliefs, source)
                rivals = [*rivals, *views]
                for view in views:  # one at a time, so that views before the end of the budget are kept
                    table.ask([view], [*target, *folds.check])
                beliefs[target] = table.consensus(target)
                run.step(round=number + 1, information=mutual_information(beliefs[target]))
            rivals = [max(views, key=lambda view: table.estimated_accuracy(view, target))]
            if self.sets:
                rivals = [self._race_demonstrations(table, beliefs, source, target, views)]
                table.ask(rivals, folds.check)
            if self.positions:
                with_prefix = self._search_words(run, table, beliefs, target, rivals[0])
                table.ask([with_prefix], [*target, *folds.check])
                rivals.append(with_prefix)
        except BudgetExhaustedError:
            run.step(ended="the budget")
        self._conclude(run, table, [rival for rival in rivals if table.has(rival, folds.check)], folds)

    def _views(self, table: _AnswerTable, beliefs: Floats, source: Sequence[int]) -> list[Prompt]:
        """Return the seed prompt with several sets of demonstrations, drawn from the most confident examples per class."""
        by_class = confident(beliefs[list(source)], self.share)
        shots = [self.shots] * len(by_class)
        return list(dict.fromkeys(_with_demonstrations(table, source, by_class, shots) for _ in range(self.views)))

    def _race_demonstrations(
        self,
        table: _AnswerTable,
        beliefs: Floats,
        source: Sequence[int],
        target: Sequence[int],
        views: Sequence[Prompt],
    ) -> Prompt:
        """Return the prompt whose demonstrations make the consensus labels most likely, by successive halving.

        The labels of a set of demonstrations, their counts and their order bias the answers, so sets differ.
        """
        rng, by_class = table.run.rng, confident(beliefs[list(source)], self.share)
        shots = rng.integers(1, 2 * self.shots, size=(self.sets, len(by_class)))
        drawn = [_with_demonstrations(table, source, by_class, row) for row in shots.tolist()]
        remaining = list(dict.fromkeys([*views, *drawn]))
        order, done = rng.permutation(target).tolist(), 0
        while done < len(order):
            size = min(max(2 * done, _FIRST_EXAMPLES), len(order))
            unanswered = [prompt for prompt in remaining if not table.has(prompt, order[done:size])]
            if unanswered:
                table.ask(unanswered, order[done:size])
            answers = np.array([table.answers(prompt)[order[:size]] for prompt in remaining])
            losses = cross_entropy(answers, beliefs[order[:size]])
            ranks = np.argsort(losses, kind="stable")[: max(1, len(remaining) // 2)].tolist()
            table.run.step(raced=len(remaining), loss=float(losses[ranks[0]]))
            remaining, done = [remaining[i] for i in ranks], size
        return remaining[0]

    def _search_words(
        self, run: Run, table: _AnswerTable, beliefs: Floats, target: Sequence[int], start: Prompt
    ) -> Prompt:
        """Return `start` with the words before it that make the consensus labels most likely."""
        words = contrastive_vocabulary([table.text(i) for i in target], beliefs[list(target)], self.vocabulary)
        if not words:
            return start
        p = uniform(self.positions, len(words))
        for _ in range(self.steps):
            batch = run.rng.permutation(target)[: self.batch].tolist()
            chosen = sample(p, self.samples, run.rng)
            prompts = [with_words(start, [words[j] for j in row]) for row in chosen]
            losses = cross_entropy(table.ask(prompts, batch), beliefs[batch])
            p = toward_elite(p, chosen, losses, self.elite, self.rate)
            run.step(loss=float(np.nanmin(losses, initial=np.inf)), mean=float(np.nanmean(losses)))
        return with_words(start, [words[j] for j in modal(p)])

    def _conclude(self, run: Run, table: _AnswerTable, rivals: Sequence[Prompt], folds: Folds) -> None:
        """Score the seed prompt, and the best rival if the bound shows a gain; report estimates and labels."""
        seed, check = run.task.seed_prompt, folds.check
        kept, to_score = seed, [seed]
        if rivals:
            # Each rival has answers on one learning fold, which is disjoint from the check fold.
            fold_of = {p: folds.first if table.has(p, folds.first) else folds.second for p in rivals}
            rival = max(rivals, key=lambda prompt: table.estimated_accuracy(prompt, fold_of[prompt]))

            def gain_over_seed(beliefs: Floats) -> Interval:
                rival_correct, seed_correct = (table.expected_correct(p, check, beliefs) for p in (rival, seed))
                return paired_interval(rival_correct, seed_correct, _CONFIDENCE)

            gain = table.interval_over_annotators(check, (seed, rival), gain_over_seed)
            votes = votes_of(table.answers(rival)[check])
            seed_votes = votes_of(calibrated(table.answers(seed))[check])
            # All pseudo-labels derive from the seed prompt's answers: a rival unrelated to them has learnt an artefact.
            related = mean_interval(chance_corrected_agreement(votes, seed_votes, len(run.task.labels)), _CONFIDENCE)
            collapsed = is_collapsed(votes, len(run.task.labels))
            if gain.low > _SMALL and related.low > 0 and not collapsed:
                kept, to_score = rival, [seed, rival]
            run.step(gain=gain.estimate, low=gain.low, high=gain.high, related=related.low, collapsed=str(collapsed))
        beliefs = table.consensus(check, without=(seed, kept))
        labels = run.task.labels
        labelled = [replace(table.examples[i], target=labels[q.argmax()]) for i, q in zip(check, beliefs, strict=True)]
        reward = ExpectedCorrectness(labels, {example.id: q for example, q in zip(labelled, beliefs, strict=True)})
        # All of these requests are in the memo, so scoring is free.
        run.score(to_score, labelled, self.replicates, reward=reward, parents=[None, seed][: len(to_score)])
        accuracy = table.interval_over_annotators(
            check,
            (seed, kept),
            lambda beliefs: mean_interval(table.expected_correct(kept, check, beliefs), _CONFIDENCE),
        )
        low, high = max(accuracy.low, 0.0), min(accuracy.high, 1.0)
        run.step(accuracy=accuracy.estimate, low=low, high=high, pseudo_labels=json.dumps(table.labels(folds)))


def _with_demonstrations(
    table: _AnswerTable, source: Sequence[int], by_class: Sequence[Sequence[int]], shots: Sequence[int]
) -> Prompt:
    """Return the seed prompt with random demonstrations in random order.

    Args:
        table: supplies task, examples and random numbers.
        source: indices of the examples of the source fold.
        by_class: [L] positions in `source` of the most confident examples of each class.
        shots: [L] demonstrations of each class.
    """
    rng, task = table.run.rng, table.run.task
    drawn = [
        replace(table.examples[source[i]], target=task.labels[y])
        for y, positions in enumerate(by_class)
        for i in rng.permutation(positions)[: shots[y]]
    ]
    shuffled = tuple(drawn[i] for i in rng.permutation(len(drawn)))
    return replace(task.seed_prompt, demonstrations=Demonstrations(shuffled))


@dataclass
class _AnswerTable:
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

    def answers(self, prompt: Prompt) -> Floats:
        """Return the label probabilities of a prompt on all examples, [E, L]."""
        return self.probabilities[prompt]

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
        answers = [self.probabilities[p][list(indices)] for p in self._annotators(indices, without)]
        labels = len(self.run.task.labels)
        if len(answers) < 2:  # noqa: PLR2004  a consensus needs two annotators
            return _fill_failed(calibrated(self.probabilities[self.run.task.seed_prompt])[list(indices)])
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
        return widen_by_jackknife(interval_of(self.consensus(indices, without)), leave_one_out, _CONFIDENCE)

    def _annotators(self, indices: Sequence[int], without: Sequence[Prompt]) -> list[Prompt]:
        return [prompt for prompt in self.probabilities if prompt not in without and self.has(prompt, indices)]

    def expected_correct(self, prompt: Prompt, indices: Sequence[int], beliefs: Floats) -> Floats:
        """Return the probability that each answer is correct, [B]: 0 if it names no label, NaN if the reply failed."""
        rows = self.probabilities[prompt][list(indices)]
        votes: Votes = votes_of(rows)
        probabilities = np.where(votes < 0, 0.0, beliefs[np.arange(len(votes)), votes])
        return np.where(np.isnan(rows).any(axis=1), np.nan, probabilities)

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


def _folds(count: int, rng: np.random.Generator) -> Folds:
    """Split the examples at random: 30 % in each of the two learning folds, 40 % in the check fold."""
    order = rng.permutation(count).tolist()
    size = round(0.3 * count)
    return Folds(sorted(order[:size]), sorted(order[size : 2 * size]), sorted(order[2 * size :]))


def _fill_failed(beliefs: Floats) -> Floats:
    """Return beliefs [B, L] with uniform rows where the reply failed."""
    return np.where(np.isnan(beliefs), 1.0 / beliefs.shape[1], beliefs)
