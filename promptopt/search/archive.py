"""The archive: one table of what a run measured, candidate x example x replicate.

Each cell has the task's reward and the fitness, which is what the search maximizes, and further objectives if the run has any; NaN
where unknown. Knows nothing of models, budgets or strategies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from promptopt.evaluation.objectives import signs
from promptopt.statistics.arrays import Floats, nanmean, paired_difference, standard_error
from promptopt.statistics.pareto import nondominated, pareto_order
from promptopt.statistics.shrinkage import additive

if TYPE_CHECKING:
    from promptopt.prompt import Example, Prompt

Layer: TypeAlias = Literal[0, 1]
Indices: TypeAlias = np.ndarray[Any, np.dtype[np.intp]]
_REWARD: Layer = 0
_FITNESS: Layer = 1
_DIGITS = 9  # means are rounded, so that floating-point noise decides no comparison


class Measured(Protocol):
    """Anything that was scored on a number of cells."""

    @property
    def cells(self) -> int:
        """Number of replies in its mean."""
        ...


MeasuredT = TypeVar("MeasuredT", bound=Measured)


def well_measured(rows: Iterable[MeasuredT]) -> list[MeasuredT]:
    """Return the rows with at least half as many cells as the row with the most.

    The others were dropped early, and a high mean over few examples may be luck. The limit is relative, so that something is
    left even if the budget ended before any row had all cells.
    """
    listed = list(rows)
    most = max((row.cells for row in listed), default=0)
    return [row for row in listed if 2 * row.cells >= most]


class Gain(NamedTuple):
    """Mean paired difference of two prompts, its standard error, and the number of examples that both have."""

    mean: float
    error: float
    examples: int


@dataclass
class Candidate:
    """A prompt that was scored, with its means so far.

    Args:
        number: in order of first appearance; the row of the table.
        prompt: the prompt.
        parent: number of the candidate it was made from, or None.
        step: search step at which it was first scored.
        fitness: mean of what the strategy maximizes, over the cells scored so far.
        reward: mean of the task's own reward over the same cells; NaN until a judge has scored one of them.
        cells: number of replies in the fitness.
        failed: number of cells without a reply; they are in neither mean.
        examples: number of examples in the reward.
        calls: logical calls that the run had used when the prompt was first scored.
        dollars: the same in dollars.
        layer: the archive's layer of its fitness: 0 for the task's reward, 1 for another one.
    """

    number: int
    prompt: Prompt
    parent: int | None = None
    step: int = 0
    fitness: float = math.nan
    reward: float = math.nan
    cells: int = 0
    failed: int = 0
    examples: int = 0
    calls: int = 0
    dollars: float = 0.0
    layer: Layer = _REWARD


class Archive(Mapping["Prompt", Candidate]):
    """What was measured of each prompt: a mapping of prompts to candidates, in order of first appearance.

    A cell keeps its first value; a failed cell is filled when a reply arrives. The fitness of a prompt is the task's reward,
    until the prompt is scored by another one.

    Args:
        objectives: [K] names of the objectives beside the reward.
    """

    def __init__(self, objectives: Sequence[str] = ()) -> None:
        self.objectives = tuple(objectives)
        self._candidates: dict[Prompt, Candidate] = {}  # the rows
        self._examples: dict[str, Example] = {}
        self._columns: dict[str, int] = {}
        # The last row and the last column stay empty: index -1 reads what is unknown. Layers: reward, fitness, the objectives.
        self._table: Floats = np.full((_FITNESS + 1 + len(self.objectives), 1, 1, 1), np.nan)  # [layer, P, E, R]
        self._scored = np.zeros((1, 1, 1), dtype=np.bool_)  # [P, E, R] cells of the fitness, failed ones too

    def __getitem__(self, prompt: Prompt) -> Candidate:
        return self._candidates[prompt]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self._candidates)

    def __len__(self) -> int:
        return len(self._candidates)

    def enter(
        self, prompt: Prompt, parent: Prompt | None = None, *, step: int = 0, calls: int = 0, dollars: float = 0.0
    ) -> Candidate:
        """Return the candidate of a prompt, which becomes one if it is new."""
        if prompt not in self._candidates:
            made_from = None if parent is None or parent not in self._candidates else self[parent].number
            self._candidates[prompt] = Candidate(len(self), prompt, made_from, step, calls=calls, dollars=dollars)
            self._make_room()
        return self[prompt]

    def add(
        self,
        prompts: Sequence[Prompt],
        examples: Sequence[Example],
        rewards: Floats,
        fitness: Floats | None = None,
        objectives: Floats | None = None,
    ) -> None:
        """Add scores; prompts that are new become candidates.

        Args:
            prompts: [P].
            examples: [E].
            rewards: [P, E, R] by the task's reward; NaN if the reply failed, or if the task's judge was not asked.
            fitness: [P, E, R] what the search maximizes; None if that is the task's reward.
            objectives: [K, P, E, R] the objectives beside the reward; None without any.
        """
        first: dict[str, int] = {}
        for e, example in enumerate(examples):
            first.setdefault(example.id, e)
            self._columns.setdefault(example.id, len(self._columns))
            self._examples.setdefault(example.id, example)
        candidates = [self.enter(prompt) for prompt in prompts]
        self._make_room(rewards.shape[2])
        distinct, columns = list(first.values()), np.array([self._columns[name] for name in first], dtype=np.intp)
        rewards = rewards[:, distinct]
        if fitness is not None:
            fitness = fitness[:, distinct]
            rewards = np.where(np.isnan(fitness), np.nan, rewards)
            for candidate, values in zip(candidates, fitness, strict=True):
                self._begin_fitness(candidate)
                self._add_row(candidate, _FITNESS, columns, values)
        for candidate, values in zip(candidates, rewards, strict=True):
            self._add_row(candidate, _REWARD, columns, values)
        for layer, table in enumerate(() if objectives is None else objectives[:, :, distinct], _FITNESS + 1):
            for candidate, values in zip(candidates, table, strict=True):
                self._add_row(candidate, layer, columns, values)

    def rewards(self, prompts: Sequence[Prompt], examples: Sequence[Example] | None = None) -> Floats:
        """Return what the search maximizes, for each prompt on each example: the mean over replicates.

        Args:
            prompts: [P].
            examples: [E]; all that were scored by default, in order of first appearance.

        Returns:
            float64 [P, E]; NaN where unknown.
        """
        return self._means(prompts, examples, [self._layer(prompt) for prompt in prompts])

    def task_rewards(self, prompts: Sequence[Prompt], examples: Sequence[Example] | None = None) -> Floats:
        """Return the task's own rewards, as `rewards` does."""
        return self._means(prompts, examples, [_REWARD] * len(prompts))

    def objective_values(
        self, prompts: Sequence[Prompt], examples: Sequence[Example] | None = None, *, by_task: bool = False
    ) -> Floats:
        """Return all objectives, signed so that higher is better, as `rewards` does.

        Args:
            prompts: [P].
            examples: [E]; all that were scored by default.
            by_task: whether the first is the task's own reward, not what the search maximizes.

        Returns:
            float64 [1 + K, P, E].
        """
        layers = [[_REWARD if by_task else self._layer(prompt) for prompt in prompts]]
        layers += [[_FITNESS + 1 + k] * len(prompts) for k in range(len(self.objectives))]
        values: Floats = np.array([self._means(prompts, examples, each) for each in layers])
        values *= np.array([1.0, *signs(self.objectives)])[:, None, None]
        return values

    def front(self, prompts: Iterable[Prompt] | None = None) -> list[Candidate]:
        """Return the well measured that no other beats or equals in all objectives, the best by fitness first.

        Without further objectives, that is the best one alone.
        """
        ranked = self.ranked(prompts)
        means = adjusted_means(self.objective_values([candidate.prompt for candidate in ranked]))
        return [ranked[i] for i in nondominated(means.T)]

    def ahead(self, prompts: Sequence[Prompt], rival: Prompt, examples: Sequence[Example]) -> list[Prompt]:
        """Return the prompts that beat a rival in some objective, on the examples of both, best first (`pareto_order`)."""
        rivals, values = self.objective_values([rival], examples), self.objective_values(prompts, examples)
        gains = nanmean(values - rivals, axis=2).round(_DIGITS)  # [1 + K, P]
        return [prompts[i] for i in pareto_order(gains.T) if (gains[:, i] > 0).any()]

    def examples_of(self, prompt: Prompt) -> tuple[Example, ...]:
        """Return the examples that a prompt was scored on, those with failed replies too, in order of first appearance."""
        scored = self._scored[self._row(prompt)].any(axis=1)
        return tuple(example for name, example in self._examples.items() if scored[self._columns[name]])

    def ranked(self, prompts: Iterable[Prompt] | None = None) -> list[Candidate]:
        """Return the well measured among some candidates, or among all, by fitness, best first; ties by number."""
        among = self.values() if prompts is None else [self[prompt] for prompt in prompts if prompt in self]
        known = well_measured(candidate for candidate in among if not math.isnan(candidate.fitness))
        return sorted(known, key=lambda candidate: (-candidate.fitness, candidate.number))

    def paired(self, first: Prompt, second: Prompt) -> Gain:
        """Return the mean fitness of `first` minus that of `second` on the cells that both have.

        The mean is NaN if they share none; the standard error needs two examples.
        """
        cells = [self._table[self._layer(prompt), self._row(prompt)] for prompt in (first, second)]
        difference = paired_difference(*cells)
        return Gain(float(nanmean(difference, axis=0)), float(standard_error(difference[None])[0]), difference.size)

    def _means(self, prompts: Sequence[Prompt], examples: Sequence[Example] | None, layers: Sequence[int]) -> Floats:
        names = list(self._examples) if examples is None else [example.id for example in examples]
        columns = np.array([self._columns.get(name, -1) for name in names], dtype=np.intp)
        rows = np.array([self._row(prompt) for prompt in prompts], dtype=np.intp)
        return nanmean(self._table[np.array(layers, dtype=np.intp)[:, None], rows[:, None], columns], axis=2)

    def _row(self, prompt: Prompt) -> int:
        return self[prompt].number if prompt in self._candidates else -1

    def _layer(self, prompt: Prompt) -> int:
        return self[prompt].layer if prompt in self._candidates else _REWARD

    def _add_row(self, candidate: Candidate, layer: int, columns: Indices, values: Floats) -> None:
        """Fill the unknown cells of one row with values [E, R], and update the candidate's means."""
        cells, replicates = self._table[layer, candidate.number], values.shape[1]
        count = int((~np.isnan(cells)).sum())
        before = cells[columns, :replicates]
        fresh = np.isnan(before) & ~np.isnan(values)
        cells[columns, :replicates] = np.where(fresh, values, before)
        if layer == _REWARD:
            candidate.reward = _updated_mean(candidate.reward, count, values[fresh])
            candidate.examples = int((~np.isnan(cells)).any(axis=1).sum())
        if layer == candidate.layer:
            scored = self._scored[candidate.number]
            scored[columns, :replicates] = True
            candidate.fitness = _updated_mean(candidate.fitness, count, values[fresh])
            candidate.cells = count + int(fresh.sum())
            candidate.failed = int(scored.sum()) - candidate.cells

    def _begin_fitness(self, candidate: Candidate) -> None:
        """Forget that the fitness was the task's reward."""
        if candidate.layer == _REWARD:
            self._scored[candidate.number] = False
            candidate.layer, candidate.fitness = _FITNESS, math.nan

    def _make_room(self, replicates: int = 1) -> None:
        held = self._scored.shape
        needed = (len(self) + 1, len(self._columns) + 1, replicates)
        if all(new <= old for new, old in zip(needed, held, strict=True)):
            return
        rows = held[0] if needed[0] <= held[0] else 2 * needed[0]
        shape = (rows, max(held[1], needed[1]), max(held[2], needed[2]))
        table, scored = np.full((len(self._table), *shape), np.nan), np.zeros(shape, dtype=np.bool_)
        table[:, : held[0], : held[1], : held[2]] = self._table
        scored[: held[0], : held[1], : held[2]] = self._scored
        self._table, self._scored = table, scored


def adjusted_means(values: Floats) -> Floats:
    """Return the mean of each prompt as if all had run on the same examples: the additive fit of [K, P, E], [K, P].

    Examples differ in difficulty and in length, and prompts may have run on different ones. NaN where a prompt ran on none.
    """
    means: Floats = np.full(values.shape[:2], np.nan)
    for table, out in zip(values, means, strict=True):
        known = ~np.isnan(table)
        if known.any():
            fit = additive(table[known.any(axis=1)][:, known.any(axis=0)])
            out[known.any(axis=1)] = (fit.example_effects.mean() + fit.prompt_effects).round(_DIGITS)
    return means


def _updated_mean(mean: float, count: int, values: Floats) -> float:
    """Return a running mean of `count` values after some more, one by one: a mean does not depend on how they are grouped."""
    for n, value in enumerate(values.tolist(), count + 1):
        mean = value if n == 1 else mean + (value - mean) / n
    return mean
