"""Unsupervised prompt learning: labels, demonstrations and prompt words from unlabelled texts.

After "On Unsupervised Prompt Learning for Classification with Black-box Language Models" (Zhang et al. 2024, arXiv
2410.03124v1), whose own algorithm is `ppd.PPD`. Nothing here uses the label of a training example.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.prompt import Demonstrations
from promptopt.search.categorical import modal, sample, toward_elite, uniform
from promptopt.search.halving import doubling, successive_halving
from promptopt.search.pseudo_labels import (
    ExpectedCorrectness,
    confident,
    cross_entropy,
    refuse_what_needs_labels,
    with_words,
)
from promptopt.search.vocabulary import contrastive_vocabulary
from promptopt.statistics import mean_interval
from promptopt.statistics.annotators import chance_corrected_agreement, is_collapsed, mutual_information, votes_of
from promptopt.strategies.answers import CONFIDENCE, AnswerTable
from promptopt.strategies.checks import check_at_least, check_share
from promptopt.strategies.ppd import PPD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.prompt import Prompt
    from promptopt.search.run import Run
    from promptopt.statistics import Interval
    from promptopt.statistics.arrays import Floats

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

    writes = False
    unlabelled = True

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
        check_at_least(self, 1, "rounds", "shots", "vocabulary", "steps", "samples", "batch", "replicates")
        if self.views < 2:  # noqa: PLR2004  a consensus needs two annotators
            raise InputError(f"views must be at least 2, so that they can agree, not {self.views}")
        if self.rounds * self.views < 4:  # noqa: PLR2004  the best, and three annotators
            raise InputError(
                f"rounds x views must be at least 4, so that three others judge the best, not {self.rounds} x {self.views}"
            )
        check_at_least(self, 0, "sets", "positions")
        check_share(self, "share", "elite", "rate")

    @staticmethod
    def paper() -> PPD:
        """Return the paper's algorithm, reconstructed where the paper leaves gaps."""
        return PPD()

    def search(self, run: Run) -> None:
        """Label, learn, check; score the seed prompt, and the new prompt if the bound shows a gain."""
        refuse_what_needs_labels(run.task)
        table = AnswerTable(run, [replace(example, target=None) for example in run.task.train], self.replicates)
        seed = run.task.seed_prompt
        folds = _folds(len(table.examples), run.rng)
        everything = range(len(table.examples))
        table.ask([seed], everything)
        rivals: list[Prompt] = []
        try:
            beliefs = table.calibrated(seed, everything)
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

    def _views(self, table: AnswerTable, beliefs: Floats, source: Sequence[int]) -> list[Prompt]:
        """Return the seed prompt with several sets of demonstrations, drawn from the most confident examples per class."""
        by_class = confident(beliefs[list(source)], self.share)
        shots = [self.shots] * len(by_class)
        return list(dict.fromkeys(_with_demonstrations(table, source, by_class, shots) for _ in range(self.views)))

    def _race_demonstrations(
        self,
        table: AnswerTable,
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
        order = rng.permutation(target).tolist()

        def rank(prompts: list[Prompt], size: int) -> list[Prompt]:
            losses = cross_entropy(table.complete(prompts, order[:size]), beliefs[order[:size]])
            ranks = np.argsort(losses, kind="stable").tolist()
            table.run.step(raced=len(prompts), loss=float(losses[ranks[0]]))
            return [prompts[i] for i in ranks]

        distinct, rounds = list(dict.fromkeys([*views, *drawn])), doubling(_FIRST_EXAMPLES, len(order))
        return successive_halving(distinct, rounds, rank, lambda count: max(1, count // 2))[0]

    def _search_words(
        self, run: Run, table: AnswerTable, beliefs: Floats, target: Sequence[int], start: Prompt
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

    def _conclude(self, run: Run, table: AnswerTable, rivals: Sequence[Prompt], folds: Folds) -> None:
        """Score the seed prompt, and the best rival if the bound shows a gain; report estimates and labels."""
        seed = kept = run.task.seed_prompt
        if rivals:
            rival = _best_rival(table, rivals, folds)
            verdict = _judge(table, rival, folds.check)
            run.step(**verdict.facts())
            kept = rival if verdict.accepted else seed
        self._score_by_consensus(table, kept, folds.check)
        accuracy = table.accuracy(kept, folds.check, (seed, kept))
        low, high = max(accuracy.low, 0.0), min(accuracy.high, 1.0)
        run.step(accuracy=accuracy.estimate, low=low, high=high, pseudo_labels=json.dumps(table.labels(folds)))

    def _score_by_consensus(self, table: AnswerTable, kept: Prompt, check: Sequence[int]) -> None:
        """Score the seed prompt and the kept one by the labels of the others; free, because the replies are in the memo."""
        task = table.run.task
        beliefs = table.consensus(check, without=(task.seed_prompt, kept))
        labelled = [
            replace(table.examples[i], target=task.labels[row.argmax()]) for i, row in zip(check, beliefs, strict=True)
        ]
        reward = ExpectedCorrectness(
            task.labels, {example.id: row for example, row in zip(labelled, beliefs, strict=True)}
        )
        parents = {task.seed_prompt: None} | ({} if kept == task.seed_prompt else {kept: task.seed_prompt})
        table.run.score(list(parents), labelled, self.replicates, reward=reward, parents=list(parents.values()))


class _Verdict(NamedTuple):
    """How a new prompt compares with the seed prompt on the check fold.

    Args:
        gain: in accuracy.
        related: agreement with the seed prompt's calibrated answers, corrected for chance. All pseudo-labels derive from
            those: a prompt unrelated to them has learnt an artefact.
        collapsed: whether the new prompt nearly always gives one label.
    """

    gain: Interval
    related: Interval
    collapsed: bool

    @property
    def accepted(self) -> bool:
        """Whether the new prompt may be returned."""
        return self.gain.low > _SMALL and self.related.low > 0 and not self.collapsed

    def facts(self) -> dict[str, float | str]:
        """Return what the step reports."""
        gain, low, high = self.gain
        return {"gain": gain, "low": low, "high": high, "related": self.related.low, "collapsed": str(self.collapsed)}


def _judge(table: AnswerTable, rival: Prompt, check: Sequence[int]) -> _Verdict:
    """Compare a prompt with the seed prompt."""
    seed, labels = table.run.task.seed_prompt, len(table.run.task.labels)
    votes, seed_votes = votes_of(table.answers(rival, check)), votes_of(table.calibrated(seed, check))
    related = mean_interval(chance_corrected_agreement(votes, seed_votes, labels), CONFIDENCE)
    return _Verdict(table.gain(rival, seed, check), related, is_collapsed(votes, labels))


def _best_rival(table: AnswerTable, rivals: Sequence[Prompt], folds: Folds) -> Prompt:
    """Return the most accurate prompt on the learning fold that it has answers on, which is disjoint from the check fold."""
    fold_of = {prompt: folds.first if table.has(prompt, folds.first) else folds.second for prompt in rivals}
    return max(rivals, key=lambda prompt: table.estimated_accuracy(prompt, fold_of[prompt]))


def _with_demonstrations(
    table: AnswerTable, source: Sequence[int], by_class: Sequence[Sequence[int]], shots: Sequence[int]
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


def _folds(count: int, rng: np.random.Generator) -> Folds:
    """Split the examples at random: 30 % in each of the two learning folds, 40 % in the check fold."""
    order = rng.permutation(count).tolist()
    size = round(0.3 * count)
    return Folds(sorted(order[:size]), sorted(order[size : 2 * size]), sorted(order[2 * size :]))
