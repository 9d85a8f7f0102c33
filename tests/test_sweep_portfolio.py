"""Portfolios: halving under one budget. What is found on toys is simulated: no language model is asked."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import sweep_parts
import toys
from sweep_parts import hard_seed, write_sweep, write_task

from promptopt import Budget, FakeModel, InputError, Memo, Result
from promptopt.optimization.api import run_job
from promptopt.optimization.job import prepare
from promptopt.strategies.registry import BUILT_IN
from promptopt.sweep import run_sweep, single_run
from promptopt.sweep.portfolio import rungs
from promptopt.sweep.single_run import CALLS, RecordingLedger, load_outcome

if TYPE_CHECKING:
    from pathlib import Path

ALONE = 800  # calls of a strategy that is run alone; with 1,000 a second one finds the answer
SEEDS = (0, 1, 2)  # of the proof; other tests take the first
NEED_MORE = {"promst", "promst.paper", "p1", "p1.paper", "unsupervised.paper"}  # than a toy of 24 items has
STRATEGIES = {"random": "{ prompts = 2000 }", "hillclimb": "{}", "promptquine": "{ shortest = 2 }", "tapruning": "{}"}


def sweep_text(budget: float, *, portfolio: bool, model: str = "hard_model", seeds: tuple[int, ...] = SEEDS[:1]) -> str:
    head = f'budget = "{budget:g} calls"\nseeds = {list(seeds)}\ntasks = ["toy.toml"]\nportfolio = {str(portfolio).lower()}\n'
    head += f'[[model]]\nname = "python:sweep_parts:{model}"\nwriter = "python:sweep_parts:writer"\n'
    return head + "".join(f'[[strategy]]\nname = "{name}"\nsettings = {given}\n' for name, given in STRATEGIES.items())


class Unrecorded:
    """In place of a run's study, which decides nothing and takes longer than a toy's run."""

    def __init__(self, storage: Any) -> None: ...

    def __call__(self, event: Any) -> None: ...

    def close(self) -> None: ...


def find(home: Path, seeds: tuple[int, ...]) -> Any:
    """Four strategies alone, and as portfolios with 1.6 times the budget: (folder, table alone, table of portfolios)."""
    file = write_sweep(home, sweep_text(ALONE, portfolio=False, seeds=seeds))
    write_task(home, seed_prompt=hard_seed())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_run, "OptunaStudy", Unrecorded)
        alone = run_sweep(file, folder=home / "alone", memo=str(home / "memo"), workers=0)
        file.write_text(sweep_text(1.6 * ALONE, portfolio=True, seeds=seeds), encoding="utf-8")
        return home, alone, run_sweep(file, folder=home / "portfolio", memo=str(home / "memo"), workers=0)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return find(tmp_path_factory.mktemp("found"), SEEDS[:1])


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A portfolio whose calls are logged: (folder, table)."""
    home = tmp_path_factory.mktemp("paid")
    file = write_sweep(home, sweep_text(920, portfolio=True, model="model"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(sweep_parts.LOG, str(home / "log"))
        return home, run_sweep(file, folder=home / "out", memo=str(home / "memo"), workers=0)


def test_rounds_halve_the_strategies_and_double_their_budget() -> None:
    assert rungs(Budget(calls=1000), 4) == [(4, Budget(calls=75)), (2, Budget(calls=150))]
    assert rungs(Budget(dollars=1.0), 2) == [(2, Budget(dollars=0.3))]
    assert [rung.arms for rung in rungs(Budget(calls=10_000), 7)] == [7, 4, 2]


@pytest.mark.parametrize("strategies", range(2, 33))
def test_all_rounds_together_leave_a_quarter_even_if_nothing_were_shared(strategies: int) -> None:
    assert sum(arms * (budget.calls or 0) for arms, budget in rungs(Budget(calls=1e9), strategies)) <= 0.75e9


def check_found(found: Any, seeds: tuple[int, ...]) -> None:
    _, alone, together = found
    best = max(alone.rows, key=lambda row: (row.test.estimate, -row.calls))
    costs = {entry.seed: entry.used.calls for entry in best.entries}
    (row,) = together.rows

    # There is one to be found: the others end lower, or cost a third more.
    assert all(r.test.estimate < best.test.estimate or r.calls > 1.3 * best.calls for r in alone.rows if r is not best)
    assert [entry.strategy for entry in row.entries] == [best.entries[0].strategy] * len(seeds)
    assert row.test.estimate >= best.test.estimate
    assert all(entry.used.calls <= 1.6 * costs[entry.seed] for entry in row.entries)
    assert all(entry.used.calls <= 1.6 * ALONE for entry in row.entries)


def test_simulated_the_portfolio_finds_the_best_of_four_for_at_most_1_6_times_its_cost(found: Any) -> None:
    check_found(found, SEEDS[:1])


@pytest.mark.proof
def test_simulated_over_seeds_the_portfolio_finds_the_best_of_four_for_at_most_1_6_times_its_cost(
    tmp_path: Path,
) -> None:
    check_found(find(tmp_path, SEEDS), SEEDS)


def test_a_portfolio_pays_each_call_once_and_stays_under_its_budget(paid: Any) -> None:
    home, table = paid
    asked = [json.loads(line)[:2] for line in (home / "log").read_text().splitlines()]
    (entry,) = table.rows[0].entries
    writers = sum(1 for body, _ in asked if "<prompt>" in str(body))

    assert len({json.dumps(one) for one in asked}) == len(asked)
    assert len(asked) <= entry.used.calls <= 920
    assert not writers  # they are another model's


def test_losing_strategies_never_meet_a_test_item_and_the_winner_does_at_the_end(paid: Any) -> None:
    home, table = paid
    asked = ["test item" in line for line in (home / "log").read_text().splitlines()]
    (entry,) = table.rows[0].entries
    assert entry.outcome.result is not None
    assert entry.outcome.result.test is not None
    rounds = [one["run"] for part in table.rounds[0]["rounds"] for one in part]
    results = [Result.load(home / "out" / name / "result.json") for name in rounds]

    assert sum(asked) == 2 * entry.outcome.result.test.examples
    assert all(asked[-sum(asked) :])
    assert len(results) == 6
    assert all(result.test is None for result in results)


def test_the_winner_goes_on_with_all_that_is_left(found: Any) -> None:
    home, _, table = found
    for portfolio, entry in zip(table.rounds, table.rows[0].entries, strict=True):
        runs = [load_outcome(home / "portfolio" / one["run"]) for part in portfolio["rounds"] for one in part]
        spent = {key for run in runs if run is not None for key in run.calls.usage}
        last = load_outcome(home / "portfolio" / portfolio["rounds"][-1][0]["run"])
        winner = next(one for one in portfolio["rounds"][-1] if one["goes_on"])
        sure = load_outcome(home / "portfolio" / winner["run"])
        assert last is not None
        assert sure is not None
        result = entry.outcome.result

        assert None not in runs
        assert result.budget == str(Budget(calls=1.6 * ALONE - len(spent) + sure.calls.repeatable_count))
        assert set(sure.calls.repeatable) <= set(entry.outcome.calls.usage)
        assert entry.used.calls == len(spent | set(entry.outcome.calls.usage))


def test_a_portfolio_run_again_reads_its_folders(found: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home, _, table = found

    def refusing(request: Any) -> str:
        raise AssertionError("asked again")

    monkeypatch.setattr(sweep_parts.hard_model, "handler", refusing)
    again = run_sweep(home / "sweep.toml", folder=home / "portfolio", memo=str(tmp_path / "empty"), workers=0)

    assert again.to_json() == table.to_json()
    assert all((home / "portfolio" / one["run"] / CALLS).exists() for one in table.rounds[0]["rounds"][0])


def test_a_strategy_that_fails_ends_its_portfolio_and_is_no_loser(tmp_path: Path) -> None:
    text = sweep_text(920, portfolio=True, model="model")
    file = write_sweep(tmp_path, text.replace("sweep_parts:writer", "sweep_parts:mute"))
    table = run_sweep(file, folder=tmp_path / "out", memo=str(tmp_path / "memo"), workers=0)

    assert not table.finished
    assert table.rows[0].test is None
    assert "hillclimb: " in table.failures[0]
    assert "the writer is gone" in table.failures[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("920 calls", "300 calls"), r"one candidate on 'toy' takes at least 68: set budget = '928 calls'"),
        (('"toy.toml"', '"bare.toml"'), "a portfolio selects on validation examples, but task 'bare' has none"),
    ],
)
def test_what_cannot_be_a_portfolio_is_refused(change: tuple[str, str], said: str, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, sweep_text(920, portfolio=True, model="model").replace(*change))
    text = (tmp_path / "toy.toml").read_text().replace('validation = "toy-validation.jsonl"\n', "")
    (tmp_path / "bare.toml").write_text(text, encoding="utf-8")

    with pytest.raises(InputError) as error:
        run_sweep(file, folder=tmp_path / "out", memo=str(tmp_path / "memo"), workers=0)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(name, marks=[pytest.mark.wide] * (name.startswith("hillclimb.") and name != "hillclimb.protegi"))
        for name in BUILT_IN
        if name not in NEED_MORE
    ],
)
def test_a_larger_budget_makes_the_sure_calls_of_a_smaller_one_again(strategy: str, tmp_path: Path) -> None:
    toy = toys.TOYS[0]
    parts = toys.splits(24)
    whole = toys.PROGRAM_TASK if strategy == "components" else toy.task
    task = replace(whole, train=parts["train"], validation=parts["validation"], test=parts["test"])
    spent = []
    for budget in ("300 calls", "600 calls", "1200 calls"):
        account = RecordingLedger()
        with Memo(tmp_path / budget) as memo:
            job = prepare(
                task,
                toy.model(),
                strategy,
                writer=FakeModel(toys.writer, "writer"),
                budget=budget,
                seed=1,
                settings=None,
            )
            run_job(job, memo=memo, tracking=False, ledger=account)
        spent.append(account)

    for small, large in itertools.pairwise(spent):
        assert small.repeatable_count >= len(task.train)
        assert list(small.usage)[: small.repeatable_count] == list(large.usage)[: small.repeatable_count]
