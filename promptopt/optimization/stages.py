"""The stages of a run under one budget: what each may use, by what the ledger says of the calls so far.

Nothing here looks at a reward or a clock, so that a run started again takes the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from promptopt.errors import InputError
from promptopt.evaluation.ledger import Budget, Spending
from promptopt.evaluation.rollouts import most_rounds
from promptopt.models.usage import Bound
from promptopt.optimization.reserves import BLOCK, Reserves, affordable, after_search, before_search, least_cells
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from promptopt.evaluation.ledger import Ledger
    from promptopt.prompt import Example
    from promptopt.task import Task

_SLACK = 1.5  # safety factor: tokens and dollars of later calls are estimated from the calls made


@dataclass
class Stages:
    """One run's budget, from stage to stage; sets the ledger's limit.

    Args:
        task: whose items are shared out.
        budget: of all stages.
        ledger: of the run.
        seed: of the samples.
        test_replies: to each prompt on each test item.
        cut: items that validation and test got, and all that there are, by split, where they are fewer.
    """

    task: Task
    budget: Budget
    ledger: Ledger
    seed: int
    test_replies: int = 1
    cut: dict[str, tuple[int, int]] = field(default_factory=dict)

    def start(self) -> None:
        """Begin with calls to every model and the seed prompt on the training items."""
        self.ledger.limit, self.ledger.stage = self.budget, "start"

    def search(self) -> None:
        """Let the search use what choice and test will not need.

        Raises:
            InputError: by what the seed prompt took, the budget does not pay for comparing one candidate.
        """
        self.check()
        planned = self._planned(self.task.train)
        self._begin("search", planned.race.cells + 2 * self.test_replies * planned.test_items)

    def validation(self, candidates: int, cells: int) -> tuple[int, tuple[Example, ...]]:
        """Let the choice use what the search left and the test will not need.

        Args:
            candidates: that could be raced.
            cells: measured so far.

        Returns:
            How many candidates to race, and the validation items for them.
        """
        each = self._each(cells)
        reserves = after_search(self._cells(each), len(self.task.validation), len(self.task.test), candidates)
        self._begin("validation", 2 * self.test_replies * reserves.test_items, each)
        return reserves.race.listed, self._sample("validation", reserves.race.items)

    def test(self, prompts: int, cells: int) -> Iterator[tuple[Example, ...]]:
        """Yield the test items that the rest of the budget pays for, as they stand in the data; then more, if it pays for more.

        Args:
            prompts: one, or two to be compared.
            cells: measured before the test.
        """
        prompts *= self.test_replies
        self.ledger.limit, self.ledger.stage = self.budget, "test"
        every, done = len(self.task.test), 0
        while done < every:
            more = affordable(self._cells(self._each(cells + done * prompts)), prompts, every - done)
            if more < (min(BLOCK, every - done) if done else 1):
                return
            done += more
            yield tuple(sorted(self._sample("test", done), key=self.task.test.index))

    @property
    def notes(self) -> list[str]:
        """What of the data the budget did not pay for."""
        return [
            f"budget limits {split} to {kept} of {every} items (random sample)"
            for split, (kept, every) in self.cut.items()
        ]

    def check(self, factor: float = 1.0) -> None:
        """Refuse a budget that by the calls so far does not pay for comparing one candidate.

        Args:
            factor: by how much it must be too small.

        Raises:
            InputError: it does not; names the least that does.
        """
        short = any(limit * factor < self._least[name] for name, limit in self._limits.items())
        if short:
            raise self.too_small()

    def too_small(self) -> InputError:
        """Return the error of a budget that does not pay for comparing one candidate."""
        least = " and ".join(f"about {_rounded(self._least[name], name)} {name}" for name in self._limits)
        silent = "; the server reports no usage, so that each call counts as the most it can take: a lower max_tokens makes that less"
        return too_small(self.task, self.budget, least, silent if self.ledger.unreported else "")

    def _begin(self, stage: str, held: float, each: dict[str, float] | None = None) -> None:
        """Hold back so many cells for later, but leave what a candidate takes on the training items."""
        each, least = each or self._each(len(self.task.train)), self._one_candidate()
        # The last call of each stage passes only if the most that it can use is left.
        limits = {
            name: max(limit - held * each[name] - self._widest(name), least[name], limit * 0.01)
            for name, limit in self._limits.items()
        }
        self.ledger.stage = stage
        self.ledger.limit = Budget(**{name: min(limit, self._limits[name]) for name, limit in limits.items()})

    def _one_candidate(self) -> dict[str, float]:
        """Return what is used once a candidate has been tried on the training items, for the search alone."""
        if self.ledger.stage != "start":
            return dict.fromkeys(self._limits, 0.0)
        used, mean, items = (
            self.ledger.total(self.ledger.logical),
            self._mean(len(self.task.train)),
            len(self.task.train),
        )
        return {name: getattr(used, name) + items * mean[name] + self._widest(name) for name in self._limits}

    def _planned(self, train: tuple[Example, ...]) -> Reserves:
        each = self._each(len(train))
        cells = min((limit / each[name] for name, limit in self._limits.items() if each[name]), default=math.inf)
        return before_search(cells, len(train), len(self.task.validation), len(self.task.test))

    def _cells(self, each: dict[str, float]) -> float:
        """Return how many cells the rest of the budget pays for."""
        used = self.ledger.total(self.ledger.logical)
        left = {name: limit - getattr(used, name) - self._widest(name) for name, limit in self._limits.items()}
        return min((rest / each[name] for name, rest in left.items() if each[name]), default=math.inf)

    def _each(self, cells: int) -> dict[str, float]:
        """Return what one cell may take of each unit, with some to spare where that is a guess."""
        mean = self._mean(cells)
        calls = mean["calls"]
        if self.task.environment is not None:  # better prompts often last longer
            most = most_rounds(self.task.train)
            calls = min(_SLACK * calls, most or math.inf) if self.ledger.stage != "start" else most or _SLACK * calls
        share = _SLACK * calls / mean["calls"]
        return {"calls": calls, "tokens": share * mean["tokens"], "dollars": share * mean["dollars"]}

    def _mean(self, cells: int) -> dict[str, float]:
        """Return what one cell took of each unit: a call of each role, or one for each round of an episode."""
        used, roles = self._measured
        calls = max(len(roles), 1.0)
        if self.task.environment is not None:
            calls = max(used.calls / max(cells, 1), 1.0)
        share = calls / max(used.calls, 1)
        if not used.calls:  # nothing is known yet but the most that a call can take
            return {
                "calls": calls,
                "tokens": calls * self._widest("tokens"),
                "dollars": calls * self._widest("dollars"),
            }
        return {"calls": calls, "tokens": share * used.tokens, "dollars": share * used.dollars}

    @property
    def _measured(self) -> tuple[Spending, dict[str, Spending]]:
        roles = {role: spent for role, spent in self.ledger.logical.items() if role != "writer"}
        return self.ledger.total(roles), roles

    @property
    def _least(self) -> dict[str, float]:
        """Return what it takes to compare one candidate, by the calls so far."""
        mean = self._mean(len(self.task.train))
        cells = least_cells(len(self.task.train), len(self.task.validation), len(self.task.test), self.test_replies)
        written = self.ledger.logical.get("writer", Spending())
        return {name: cells * mean[name] + self._widest(name) + getattr(written, name) for name in mean}

    def _widest(self, name: str) -> float:
        """Return the most that one call can use, of those that were made or refused; the writer's aside."""
        bounds = [Bound(), *(bound for role, bound in self.ledger.largest_bound.items() if role != "writer")]
        return max(float(getattr(bound, name, 0.0)) for bound in bounds)

    @property
    def _limits(self) -> dict[str, float]:
        return {name: limit for name, limit in vars(self.budget).items() if limit is not None}

    def _sample(self, split: str, most: int) -> tuple[Example, ...]:
        """Return so many items of a split, drawn and shuffled by the seed: data may be sorted, and a race begins early."""
        examples: tuple[Example, ...] = getattr(self.task, split)
        if most < len(examples):
            self.cut[split] = (most, len(examples))
        else:
            self.cut.pop(split, None)
        order = named_generator(self.seed, f"sample of {split}").permutation(len(examples)).tolist()
        return tuple(examples[i] for i in order[:most])


def least_calls(task: Task, roles_per_cell: int, writer_calls: int, test_replies: int = 1) -> int:
    """Return the calls below which no candidate can be compared, whatever the replies: episodes may take more."""
    cells = least_cells(len(task.train), len(task.validation), len(task.test), test_replies)
    return cells * roles_per_cell + writer_calls


def too_small(task: Task, budget: Budget, least: str, why: str = "") -> InputError:
    """Return the error of a budget that does not pay for comparing one candidate."""
    parts = [f"{len(task.train)} training"]
    parts += [
        f"{min(BLOCK, len(items))} {split}"
        for split, items in (("validation", task.validation), ("test", task.test))
        if items
    ]
    return InputError(
        f"the budget of {budget} cannot compare even one candidate with the seed prompt: that takes {least} "
        f"({', '.join(parts)} items for each of the two{why}): raise the budget, or give fewer items"
    )


def _rounded(value: float, name: str) -> str:
    """Return a number rounded up to two digits, calls to whole ones."""
    if name == "calls" or value <= 0:
        return f"{math.ceil(value):,}"
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step) * step:,.6g}"
