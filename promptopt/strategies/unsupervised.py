"""Unsupervised prompt learning: better labels, demonstrations and prompt words from texts that nobody has labelled.

After "On Unsupervised Prompt Learning for Classification with Black-box Language Models" (Zhang et al. 2024, arXiv
2410.03124v1), whose own algorithm is `ppd.PPD`. Nothing here looks at a label of a training item.
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

_SURE = 0.95  # confidence of the bound below which the seed prompt stays
_SMALL = 1e-6
_FIRST_ITEMS = 16  # on which all sets of demonstrations are tried


class Folds(NamedTuple):
    """Numbers of the training items: two folds that label each other, and one that only checks."""

    first: list[int]
    second: list[int]
    check: list[int]


@dataclass(frozen=True, kw_only=True)
class Unsupervised:
    """Demonstrations with agreed pseudo-labels, and words before the prompt, kept only where a bound says they help.

    1. The seed prompt labels all items; calibration takes its leaning to one label away.
    2. Two folds label each other in turns. The surest items of each class of one fold become several small balanced
       sets of demonstrations; the answers under them are annotators (Dawid-Skene) who label the other fold, so that no
       item is labelled with the help of its own guess.
    3. More sets of demonstrations, of any size and order, race by the plain answers under them: sets lean to one label or
       another, and calibration hides what a prompt that is used as it is would suffer from.
    4. The cross-entropy method looks for words, out of those that tell the classes apart, that stand before the prompt
       and make its plain answers likelier to be the labels agreed upon.
    5. Of demonstrations alone and demonstrations with words the best on the second fold meets the seed prompt on a third
       fold, which took no part. The annotators there, the two prompts themselves left out, say what each item is; unless
       the lower end of the 95 % interval of the paired difference is above 0, the seed prompt is all that is returned.
       The interval is over items and annotators: where one annotator less changes what all of them agree upon, it is
       wide. The seed prompt is returned, too, where the new prompt nearly always gives one label, or agrees with the seed
       prompt's calibrated answers no more than by chance.

    What is not in the paper: calibration, quotas, cross-fitting, the race, contrastive words, the cross-entropy method,
    agreement, collapse detection and the bound. A prompt gives its answers as they come: calibration guides, it is not applied.
    Demonstrations of the seed prompt itself are replaced. The last record of the steps holds the estimated accuracy with
    its interval, and the pseudo-labels (`pseudo_labels`, `write_fine_tuning`).

    Not for classes of very different size (calibration presumes like ones), below a few hundred texts (the bound needs
    them), or where labels are at hand (they say more). Prompts of one model err alike, so that accuracies are flattered,
    and the bound can be wrong where the model is wrong in the same way under most prompts. Labelled validation data,
    where there are any, still decide.

    Args:
        rounds: how often a fold labels the other.
        views: sets of demonstrations in each round.
        shots: demonstrations of each label in a set.
        share: of a fold, that is sure enough to be shown.
        sets: of demonstrations that race, with from 1 to 2 x `shots` - 1 items of each label; 0 races none.
        positions: words before the prompt; 0 looks for none.
        vocabulary: words to choose from.
        steps: of the search for words.
        samples: word sequences drawn in a step.
        batch: items in a step.
        elite: share of the sequences that the next step is drawn toward.
        rate: how far a step goes; 1 forgets the one before.
        replicates: votes of each cell, for models without log-probabilities (with a temperature above 0).
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
        if self.views < 2:  # noqa: PLR2004  agreement is between two
            raise InputError(f"views must be at least 2, so that they can agree, not {self.views}")
        if self.rounds * self.views < 4:  # noqa: PLR2004  the best, and three that judge it
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
        """Return the paper's algorithm, as far as it is known."""
        return PPD()

    def search(self, run: Run) -> None:
        """Label, learn, check; score the seed prompt, and the new one where it is better by the bound."""
        refuse_what_needs_labels(run.task)
        book = _Book(run, [replace(item, target=None) for item in run.task.train], self.replicates)
        seed = run.task.seed_prompt
        folds = _folds(len(book.items), run.rng)
        book.ask([seed], range(len(book.items)))
        rivals: list[Prompt] = []
        try:
            beliefs = calibrated(book.answers(seed))
            for number in range(self.rounds):
                source, target = (folds.first, folds.second) if number % 2 == 0 else (folds.second, folds.first)
                views = self._views(book, beliefs, source)
                rivals = [*rivals, *views]
                for view in views:  # one by one: a budget that ends keeps those before
                    book.ask([view], [*target, *folds.check])
                beliefs[target] = book.agreed(target)
                run.step(round=number + 1, information=mutual_information(beliefs[target]))
            rivals = [max(views, key=lambda view: book.worth(view, target))]
            if self.sets:
                rivals = [self._raced(book, beliefs, source, target, views)]
                book.ask(rivals, folds.check)
            if self.positions:
                worded = self._worded(run, book, beliefs, target, rivals[0])
                book.ask([worded], [*target, *folds.check])
                rivals.append(worded)
        except BudgetExhaustedError:
            run.step(ended="the budget")
        self._conclude(run, book, [rival for rival in rivals if book.has(rival, folds.check)], folds)

    def _views(self, book: _Book, beliefs: Floats, source: Sequence[int]) -> list[Prompt]:
        """Return the seed prompt with several sets of demonstrations, drawn from the surest items of each class."""
        sure = confident(beliefs[list(source)], self.share)
        shots = [self.shots] * len(sure)
        return list(dict.fromkeys(_showing(book, source, sure, shots) for _ in range(self.views)))

    def _raced(
        self, book: _Book, beliefs: Floats, source: Sequence[int], target: Sequence[int], views: Sequence[Prompt]
    ) -> Prompt:
        """Return the demonstrations under which the plain answers are likeliest to be the agreed labels.

        Sets of demonstrations lean to one label or another, by which labels they show, how often and in which order. Half
        of them drop out each time that the items double.
        """
        rng, sure = book.run.rng, confident(beliefs[list(source)], self.share)
        shots = rng.integers(1, 2 * self.shots, size=(self.sets, len(sure)))
        left = list(dict.fromkeys([*views, *(_showing(book, source, sure, row) for row in shots.tolist())]))
        order, done = rng.permutation(target).tolist(), 0
        while done < len(order):
            size = min(max(2 * done, _FIRST_ITEMS), len(order))
            fresh = [prompt for prompt in left if not book.has(prompt, order[done:size])]
            if fresh:
                book.ask(fresh, order[done:size])
            seen = np.array([book.answers(prompt)[order[:size]] for prompt in left])
            losses = cross_entropy(seen, beliefs[order[:size]])
            ranks = np.argsort(losses, kind="stable")[: max(1, len(left) // 2)].tolist()
            book.run.step(raced=len(left), loss=float(losses[ranks[0]]))
            left, done = [left[i] for i in ranks], size
        return left[0]

    def _worded(self, run: Run, book: _Book, beliefs: Floats, target: Sequence[int], start: Prompt) -> Prompt:
        """Return `start` with words before it that make its answers likelier to be the agreed labels."""
        words = contrastive_vocabulary([book.text(i) for i in target], beliefs[list(target)], self.vocabulary)
        if not words:
            return start
        p = uniform(self.positions, len(words))
        for _ in range(self.steps):
            batch = run.rng.permutation(target)[: self.batch].tolist()
            chosen = sample(p, self.samples, run.rng)
            prompts = [with_words(start, [words[j] for j in row]) for row in chosen]
            losses = cross_entropy(book.ask(prompts, batch), beliefs[batch])
            p = toward_elite(p, chosen, losses, self.elite, self.rate)
            run.step(loss=float(np.nanmin(losses, initial=np.inf)), mean=float(np.nanmean(losses)))
        return with_words(start, [words[j] for j in modal(p)])

    def _conclude(self, run: Run, book: _Book, rivals: Sequence[Prompt], folds: Folds) -> None:
        """Score the seed prompt, and the best rival if it is better by the bound; report estimates and labels."""
        seed, check = run.task.seed_prompt, folds.check
        kept, judges = seed, [seed]
        if rivals:
            # Each was asked of one learning fold, whose items are not those of the check.
            learnt = {p: folds.first if book.has(p, folds.first) else folds.second for p in rivals}
            rival = max(rivals, key=lambda prompt: book.worth(prompt, learnt[prompt]))

            def ahead(beliefs: Floats) -> Interval:
                return paired_interval(book.right(rival, check, beliefs), book.right(seed, check, beliefs), _SURE)

            gain = book.judged(check, (seed, rival), ahead)
            said = votes_of(book.answers(rival)[check])
            plain = votes_of(calibrated(book.answers(seed))[check])
            # All labels came from the seed prompt: what has nothing to do with its answers is a habit, not knowledge.
            related = mean_interval(chance_corrected_agreement(said, plain, len(run.task.labels)), _SURE)
            collapsed = is_collapsed(said, len(run.task.labels))
            if gain.low > _SMALL and related.low > 0 and not collapsed:
                kept, judges = rival, [seed, rival]
            run.step(gain=gain.estimate, low=gain.low, high=gain.high, related=related.low, collapsed=str(collapsed))
        beliefs = book.agreed(check, without=(seed, kept))
        labels = run.task.labels
        known = [replace(book.items[i], target=labels[q.argmax()]) for i, q in zip(check, beliefs, strict=True)]
        believed = ExpectedCorrectness(labels, {item.id: q for item, q in zip(known, beliefs, strict=True)})
        # All of this was asked before and is free. The task's own reward meets the agreed labels.
        run.score(judges, known, self.replicates, reward=believed, parents=[None, seed][: len(judges)])
        accuracy = book.judged(
            check, (seed, kept), lambda beliefs: mean_interval(book.right(kept, check, beliefs), _SURE)
        )
        low, high = max(accuracy.low, 0.0), min(accuracy.high, 1.0)
        run.step(accuracy=accuracy.estimate, low=low, high=high, pseudo_labels=json.dumps(book.labels(folds)))


def _showing(book: _Book, source: Sequence[int], sure: Sequence[Sequence[int]], shots: Sequence[int]) -> Prompt:
    """Return the seed prompt with items drawn from the surest of each class, so many of each, in an order that is drawn."""
    rng, task = book.run.rng, book.run.task
    drawn = [
        replace(book.items[source[i]], target=task.labels[y])
        for y, column in enumerate(sure)
        for i in rng.permutation(column)[: shots[y]]
    ]
    items = tuple(drawn[i] for i in rng.permutation(len(drawn)))
    return replace(task.seed_prompt, demonstrations=Demonstrations(items))


@dataclass
class _Book:
    """All answers so far: which prompt said what of which item.

    Args:
        run: asks.
        items: [E], without targets.
        replicates: votes of each cell.
        table: prompt -> probabilities [E, L]; NaN where it was not asked, or failed.
        asked: prompt -> numbers of the items that it was asked of.
    """

    run: Run
    items: Sequence[Example]
    replicates: int
    table: dict[Prompt, Floats] = field(default_factory=dict)
    asked: dict[Prompt, set[int]] = field(default_factory=dict)

    def ask(self, prompts: Sequence[Prompt], numbers: Sequence[int]) -> Floats:
        """Ask every prompt of these items, and return [P, B, L]."""
        found = self.run.label_probabilities(prompts, [self.items[i] for i in numbers], self.replicates)
        for prompt, rows in zip(prompts, found, strict=True):
            empty = np.full((len(self.items), len(self.run.task.labels)), np.nan)
            self.table.setdefault(prompt, empty)[list(numbers)] = rows
            self.asked.setdefault(prompt, set()).update(numbers)
        return found

    def answers(self, prompt: Prompt) -> Floats:
        """Return what the prompt said, [E, L]."""
        return self.table[prompt]

    def has(self, prompt: Prompt, numbers: Sequence[int]) -> bool:
        """Whether the prompt was asked of all these items."""
        return self.asked.get(prompt, set()) >= set(numbers)

    def text(self, number: int) -> str:
        """Return the item's fields as one text."""
        return " ".join(self.items[number].inputs.values())

    def agreed(self, numbers: Sequence[int], without: Sequence[Prompt] = ()) -> Floats:
        """Return soft labels of these items by all prompts that were asked of them, but for some; [B, L].

        Below two such prompts there is no agreement: then what the seed prompt says, calibrated.
        """
        rows = [self.table[p][list(numbers)] for p in self._annotators(numbers, without)]
        labels = len(self.run.task.labels)
        if len(rows) < 2:  # noqa: PLR2004  agreement is between two
            return _certain(calibrated(self.table[self.run.task.seed_prompt])[list(numbers)])
        votes = [np.where(votes_of(row) < 0, -1, votes_of(calibrated(row))) for row in rows]
        return dawid_skene(np.array(votes), labels).posterior

    def judged(self, numbers: Sequence[int], without: Sequence[Prompt], look: Callable[[Floats], Interval]) -> Interval:
        """Return what `look` makes of the soft labels of these items, wider for annotators that are a sample too."""
        left_out = [look(self.agreed(numbers, (*without, one))).estimate for one in self._annotators(numbers, without)]
        return widen_by_jackknife(look(self.agreed(numbers, without)), left_out, _SURE)

    def _annotators(self, numbers: Sequence[int], without: Sequence[Prompt]) -> list[Prompt]:
        return [prompt for prompt in self.table if prompt not in without and self.has(prompt, numbers)]

    def right(self, prompt: Prompt, numbers: Sequence[int], beliefs: Floats) -> Floats:
        """Return how likely each answer is right, [B]: 0 where it names no label, NaN where none came."""
        rows = self.table[prompt][list(numbers)]
        votes: Votes = votes_of(rows)
        likely = np.where(votes < 0, 0.0, beliefs[np.arange(len(votes)), votes])
        return np.where(np.isnan(rows).any(axis=1), np.nan, likely)

    def worth(self, prompt: Prompt, numbers: Sequence[int]) -> float:
        """Return the prompt's estimated accuracy on these items, by the others' agreement."""
        return float(np.nanmean(self.right(prompt, numbers, self.agreed(numbers, (self.run.task.seed_prompt, prompt)))))

    def labels(self, folds: Sequence[Sequence[int]]) -> list[tuple[str, str, float]]:
        """Return (id, label, confidence) of each item, agreed upon fold by fold, in the items' order."""
        found = np.zeros((len(self.items), len(self.run.task.labels)))
        for fold in folds:
            found[list(fold)] = self.agreed(fold)
        names = self.run.task.labels
        return [
            (item.id, names[int(row.argmax())], round(float(row.max()), 4))
            for item, row in zip(self.items, found, strict=True)
        ]


def _folds(count: int, rng: np.random.Generator) -> Folds:
    """Deal the items: 30 % to each of two folds that learn, 40 % to the one that checks."""
    order = rng.permutation(count).tolist()
    third = round(0.3 * count)
    return Folds(sorted(order[:third]), sorted(order[third : 2 * third]), sorted(order[2 * third :]))


def _certain(beliefs: Floats) -> Floats:
    """Return beliefs [B, L] with a failed row as all alike."""
    return np.where(np.isnan(beliefs), 1.0 / beliefs.shape[1], beliefs)
