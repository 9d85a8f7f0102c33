"""What every strategy promises: a search that its seed decides, that repeats without a call, and that ends with the budget."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from promptopt.errors import BudgetExhaustedError, InputError
from promptopt.models.fake import FakeModel
from promptopt.optimization.api import optimize
from promptopt.prompt import Example, Prompt, Prompts
from promptopt.strategies.base import Strategy, needs_no_labels, searches_programs
from promptopt.strategies.registry import name_of, settings_of
from promptopt.task import Task
from promptopt.testing.oddities import untouched_randomness

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt.models.base import Model, Request
    from promptopt.program import Ask
    from promptopt.replies import Response
    from promptopt.results.result import Result
    from promptopt.search.run import Run

_ASKING = ("score", "race", "write", "label_probabilities")  # methods of a run that use the budget
_REFUSALS = 100  # after which a search is taken to go on forever


def check_strategy(
    strategy: Strategy, task: Task | None = None, *, model: Model | None = None, calls: int = 400, seed: int = 1
) -> None:
    """Check what a strategy promises: four short searches, by default of a small task with fake models.

    Args:
        strategy: to check.
        task: that it can search; None for a task with the labels yes and no, with a program if the strategy searches programs.
        model: of the task, and writer of prompts; None for fakes.
        calls: budget of a search.
        seed: of the searches.

    Raises:
        AssertionError: a promise is broken.
        Exception: raised by the strategy itself.
    """
    if isinstance(strategy, type) or not isinstance(strategy, Strategy):
        raise AssertionError(f"{strategy!r} is not a strategy: it needs `writes` and `search(run)`")
    if not isinstance(strategy.writes, bool):
        raise AssertionError(f"`writes` of {name_of(strategy)} is {strategy.writes!r}, not True or False")
    task, name = task or (_program_task() if searches_programs(strategy) else _task()), name_of(strategy)
    settings = settings_of(strategy)

    def search(memo: str, budget: int) -> Result:
        writer = model or FakeModel(_write, "writer")
        asked = model or FakeModel(_answer, "model")
        return optimize(
            task, asked, _Watched(strategy), writer=writer, budget=f"{budget} calls", seed=seed, memo=root / memo, tracking=False
        )  # fmt: skip

    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, untouched_randomness(name):
        root = Path(folder)
        first = search("first", calls)
        if first.unfinished:
            raise AssertionError(f"a search by {name} does not finish: {first.unfinished}")
        again = search("first", calls)
        if again.paid:
            raise AssertionError(
                f"{name} makes calls when a run is repeated: draw only from run.rng, and look at no clock"
            )
        if again != first or search("second", calls) != first:
            raise AssertionError(f"{name} finds something else at the same seed: keep nothing between two searches")
        _check_scarce(name, search, sum(spent.calls for spent in first.used.values()) // 2)
    if settings_of(strategy) != settings:
        raise AssertionError(f"{name} changes its settings from {settings} to {settings_of(strategy)}")


def _check_scarce(name: str, search: Callable[[str, int], Result], calls: int) -> None:
    try:
        result = search("third", calls)
    except InputError:  # the budget is too small to begin with
        return
    used = sum(spent.calls for spent in result.used.values())
    if used > calls:
        raise AssertionError(f"{name} used {used} calls of {calls}: ask models by `run` alone")


class _Watched:
    """The strategy, stopped when it goes on asking although the budget is exhausted."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._refusals = 0
        self.name = name_of(strategy)
        self.writes = strategy.writes
        self.unlabelled = needs_no_labels(strategy)
        self.programs = searches_programs(strategy)

    def search(self, run: Run) -> None:
        for method in _ASKING:
            vars(run)[method] = self._counted(getattr(run, method))
        self._strategy.search(run)

    def _counted(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            try:
                return ask(*arguments, **options)
            except BudgetExhaustedError:
                self._refusals += 1
                if self._refusals > _REFUSALS:
                    raise AssertionError(
                        f"{self.name} goes on asking after BudgetExhaustedError: let it end the search"
                    ) from None
                raise

        return counted


def _task() -> Task:
    def examples(split: str, count: int) -> tuple[Example, ...]:
        return tuple(Example({"text": f"{split} {i}"}, ("yes", "no")[i % 2], f"{split}-{i}") for i in range(count))

    return Task(
        train=examples("train", 24),
        validation=examples("validation", 8),
        test=examples("test", 8),
        seed_prompt=Prompt("Read perhaps the item and then answer it never loudly: {text}"),
        labels=("yes", "no"),
        description="Say yes or no.",
    )


def _program_task() -> Task:
    prompts = Prompts(
        {"read": Prompt("Read never the {text}"), "answer": Prompt("As {read} says, answer it perhaps: {text}")}
    )
    return replace(_task(), seed_prompt=prompts, program=_read_and_answer)


async def _read_and_answer(ask: Ask, _: Prompts, example: Example) -> Response:
    read = await ask("read", example)
    return await ask("answer", example, read=read.text)


def _answer(request: Request) -> str:
    return ("yes", "no", "yes", "maybe")[_chance(request) % 4]


def _write(request: Request) -> str:
    words = ("read", "answer", "say", "item", "slowly", "briefly", "now", "always", "name", "judge")
    text = " ".join(words[(_chance(request) >> (4 * i)) % len(words)] for i in range(6))
    return f"<prompt>{text}: {{text}}</prompt>"


def _chance(request: Request) -> int:
    return int.from_bytes(hashlib.sha256(repr((request.context, request.replicate)).encode()).digest()[:8])
