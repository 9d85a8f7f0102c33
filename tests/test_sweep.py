"""Sweeps: the file, the runs in this process, the table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sweep_parts
from conftest import ROOT
from results import OUTCOMES, a_result
from sweep_parts import SWEEP, write_sweep
from typer.testing import CliRunner

from promptopt import InputError, Memo, Result
from promptopt.cli import app
from promptopt.evaluation.ledger import Spending
from promptopt.report.compare import read_run
from promptopt.results.cells import CELLS
from promptopt.sweep import load_sweep, run_sweep
from promptopt.sweep.intervals import crossed_interval
from promptopt.sweep.single_run import RunOutcome
from promptopt.sweep.spec import parse_sweep
from promptopt.sweep.table import Entry, Table, ranked, row_of
from promptopt.tracking.event_file import EVENTS

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt.statistics.arrays import Floats

# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budget": "many"}, "budget = 'many': cannot read the budget 'many'"),
        ({"budget": 500}, "budget = 500: must be text"),
        ({"buget": "5 calls"}, "unknown key 'buget', did you mean 'budget'"),
        ({"seeds": [0, -1]}, "seeds.1 = -1: must be greater than or equal to 0"),
        ({"seeds": []}, "seeds = []: has too few values"),
        ({"seeds": [1, 1]}, "seeds contains 1 twice"),
        ({"strategy": [{"name": "random"}, {"name": "random"}]}, "strategy contains 'random' twice"),
        ({"strategy": [{"name": "random"}], "portfolio": True}, "needs at least two strategies"),
        ({"model": [{"nme": "openai:x"}]}, "unknown key 'nme' in [[model]], did you mean 'name'"),
        ({"model": [{"name": "openai:x", "api_key": "sk-1"}]}, "remove API keys from the sweep file"),
        ({"model": [{"name": "openai:x", "price": [1.0]}]}, "model.0.price = [1.0]: has too few values"),
        ({"model": [{"name": "openai:x", "writer": {"nam": "y"}}]}, "unknown key 'nam' in [[writer]]"),
        ({"total": "2000 calls"}, "4 runs of 600 calls add up to 2,400, more than total"),
        ({"total": "2 dollars"}, "set budget = '0.5 dollars'"),
        ({"total": "1000 calls", "portfolio": True}, "2 portfolios of 600 calls add up to 1,200"),
    ],
)
def test_a_sweep_file_that_cannot_be_is_refused_with_the_mend(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match="here: ") as error:
        parse_sweep(tomllib.loads(SWEEP) | change, "here")

    assert said in str(error.value)
    assert "sk-1" not in str(error.value)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError) as error:
        parse_sweep({"tasks": ["a.toml"]}, "here")

    assert "here: [[model]] is missing" in str(error.value)
    assert "here: [[strategy]] is missing" in str(error.value)
    assert "here: the key 'budget' is missing" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"toy.toml"', '"other.toml"', "other.toml"),
        ('"random"', '"rndom"', "unknown strategy 'rndom', did you mean 'random'"),
        ("prompts = 16", "promts = 16", "RandomSearch has no setting 'promts', did you mean 'prompts'"),
        ("python:sweep_parts:model", "pyton:sweep_parts:model", "unknown model 'pyton:sweep_parts:model'"),
        ('"toy.toml"', '"toy.toml", "./toy.toml"', "two tasks are named 'toy'"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = write_sweep(tmp_path, SWEEP.replace(old, new))
    with pytest.raises(InputError) as error:
        run_sweep(file, folder=tmp_path / "out", workers=0)

    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- running


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A sweep of 2 strategies x 2 seeds, run in this process: its folder, its table, its log."""
    home = tmp_path_factory.mktemp("swept")
    file = write_sweep(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(sweep_parts.LOG, str(home / "log"))
        table = run_sweep(file, folder=home / "out", memo=str(home / "memo"), workers=0)
    return home, table


def test_every_cell_is_a_run_with_a_folder_of_its_own(swept: Any) -> None:
    home, table = swept
    found = json.loads((home / "out" / "sweep.json").read_text())
    names = [seed["run"] for row in found["rows"] for seed in row["seeds"]]
    results = [Result.load(home / "out" / name / "result.json") for name in names]

    assert found == table.to_json()
    assert len(set(names)) == 4
    assert [(r.strategy["name"], r.seed, r.budget) for r in results] == [
        (name, seed, "600 calls") for name in ("RandomSearch", "SteepestAscent") for seed in (0, 1)
    ]
    assert all(read_run(home / "out" / name).outcomes for name in names)
    assert all((home / "out" / name / CELLS).exists() for name in names)
    events = [(home / "out" / name / EVENTS).read_text(encoding="utf-8").splitlines() for name in names]
    assert {json.loads(lines[0])["event"] for lines in events} == {"started"}
    assert {json.loads(lines[-1])["event"] for lines in events} == {"finished"}
    assert [row["calls"] for row in found["rows"]] == [
        np.mean([sum(s.calls for s in r.used.values()) for r in results[i : i + 2]]) for i in (0, 2)
    ]


def test_the_table_has_a_row_for_each_strategy_with_intervals(swept: Any) -> None:
    home, table = swept
    row = table.rows[0]
    lines = (home / "out" / "sweep.md").read_text().splitlines()

    assert [row.strategy for row in table.rows] == ["random prompts=16", "steepest"]
    assert (
        row.test.low
        < row.test.estimate
        == pytest.approx(np.mean([entry.outcome.result.test.chosen.estimate for entry in row.entries]))
    )
    assert row.gain.low > 0
    assert row.best == (row.lead.low > 0)
    assert lines[2].startswith("| task | model | strategy | seeds | test examples |")
    assert len(lines) >= 6
    assert {file.name for file in (home / "out").glob("sweep.*")} >= {
        "sweep.md",
        "sweep.json",
        "sweep.csv",
        "sweep.tex",
    }


def test_a_finished_sweep_run_again_asks_and_changes_nothing(swept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home, table = swept
    monkeypatch.setenv(sweep_parts.LOG, str(home / "again"))
    before = (home / "out" / "sweep.json").read_bytes()
    again = run_sweep(home / "sweep.toml", folder=home / "out", memo=str(home / "other memo"), workers=0)

    assert again.to_json() == table.to_json()
    assert (home / "out" / "sweep.json").read_bytes() == before
    assert not (home / "again").exists()


def test_all_is_recorded_in_one_storage(swept: Any) -> None:
    import optuna

    home, _ = swept
    url = f"sqlite:///{home / 'out' / 'study.db'}"
    names = optuna.get_all_study_names(url)
    (sweep,) = [name for name in names if name.startswith("sweep ")]
    trials = optuna.load_study(study_name=sweep, storage=url).trials

    assert len(names) == 1 + 4
    assert {(t.params["strategy"], t.params["seed"]) for t in trials} == {
        (name, seed) for name in ("random prompts=16", "steepest") for seed in (0, 1)
    }
    assert len(trials) == 4
    assert all(trial.state.name == "COMPLETE" for trial in trials)


def test_a_failed_run_is_shown_with_its_reason_is_no_score_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SWEEP.replace("seeds = [0, 1]", "seeds = [0]").replace("600", "300")
    file = write_sweep(tmp_path, text)
    answer = sweep_parts.model.handler

    def refusing(request: Any) -> Any:
        if request.replicate or "<prompt>" in str(request.context):  # the writer
            from promptopt import FinalModelError

            raise FinalModelError("the key is refused")
        return answer(request)

    monkeypatch.setattr(sweep_parts.model, "handler", refusing)
    table = run_sweep(file, folder=tmp_path / "out", memo=str(tmp_path / "memo"), workers=0)
    monkeypatch.setattr(sweep_parts.model, "handler", answer)
    completed = run_sweep(file, folder=tmp_path / "out", memo=str(tmp_path / "memo"), workers=0)

    assert table.rows[0].test is None
    assert table.rows[1].test is not None
    assert table.failures == ["toy, python:sweep_parts:model, random prompts=16, seed 0: the key is refused"]
    assert "failed: toy" in table.markdown()
    assert not table.finished
    assert completed.finished
    assert completed.rows[0].test is not None
    assert completed.rows[1].formatted()[:7] == table.rows[1].formatted()[:7]


def test_an_error_in_the_users_code_is_his_to_see(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, SWEEP.replace("sweep_parts:model", "sweep_parts:faulty"))

    with pytest.raises(ValueError, match="no such thing"):
        run_sweep(file, folder=tmp_path / "out", memo=str(tmp_path / "memo"), workers=0)


def test_ctrl_c_ends_the_sweep_and_running_again_goes_on(
    swept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, table = swept
    file = write_sweep(tmp_path)
    log = tmp_path / "log"
    monkeypatch.setenv(sweep_parts.LOG, str(log))
    answer = sweep_parts.model.handler
    calls, said = 0, list[str]()

    def interrupted(request: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 700:  # in the second run
            os.kill(os.getpid(), signal.SIGINT)
        return answer(request)

    monkeypatch.setattr(sweep_parts.model, "handler", interrupted)
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(file, folder=tmp_path / "out", memo=str(tmp_path / "memo"), workers=0, tell=said.append)
    done = len(log.read_text().splitlines())
    again = run_sweep(file, folder=tmp_path / "out", memo=str(tmp_path / "memo"), workers=0)

    assert [line.partition(":")[0] for line in said] == ["0 of 4 runs finished, 4 remaining", "1 of 4", "2 of 4"]
    assert said[-1].endswith("stopped by the user; run the sweep again to continue")
    assert again.to_json() == table.to_json()
    assert done < len(log.read_text().splitlines()) == len((home / "log").read_text().splitlines())


def test_the_command_prints_the_table_or_json(swept: Any) -> None:
    home, table = swept
    words = ["sweep", str(home / "sweep.toml"), "--run-dir", str(home / "out"), "--workers", "0", "--quiet"]
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        [sys.executable, "-m", "promptopt", *words, "--json"], env=env, capture_output=True, text=True, check=True
    )

    assert shown.exit_code == 0
    assert "random prompts=16" in shown.stdout
    assert json.loads(done.stdout) == table.to_json()
    assert not done.stderr


def test_a_sweep_without_the_extra_says_how_to_get_it(swept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home, _ = swept
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it fails
    from promptopt import MissingExtraError

    with pytest.raises(MissingExtraError, match=r"promptopt-toolkit\[scale\]"):
        run_sweep(home / "sweep.toml", folder=home / "empty", memo=str(home / "memo"), workers=2)


def test_a_storage_that_cannot_be_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sweep_parts.LOG, str(tmp_path / "log"))
    file = write_sweep(tmp_path)
    for url in ("nonsense", f"sqlite:///{tmp_path}/no/such/folder.db"):
        with pytest.raises(InputError, match="study"):
            run_sweep(file, folder=tmp_path / "out", memo=str(tmp_path / "memo"), workers=0, storage=url)

    assert not (tmp_path / "log").exists()


# ---------------------------------------------------------------- intervals and the table


def truth(spread: float) -> float:
    """The mean of `drawn`, by a population of ten thousand seeds."""
    return float(drawn(np.random.default_rng(1), 2_000, 2_000, spread).mean())


def drawn(rng: np.random.Generator, seeds: int, items: int, spread: float) -> Floats:
    """Paired differences of rewards of 0 and 1, of prompts whose worth varies between seeds."""
    item, seed = rng.normal(0.3, 1, (1, items)), rng.normal(0.3, spread, (seeds, 1))
    before, after = item + rng.normal(0, 0.3, (seeds, items)), item + seed + rng.normal(0, 0.3, (seeds, items))
    found: Floats = (after > 0).astype(np.float64) - (before > 0)
    return found


@pytest.mark.parametrize(
    ("spread", "seeds"),
    [
        (0.3, 5),
        (1.0, 3),
        pytest.param(0.3, 3, marks=pytest.mark.wide),
        pytest.param(1.0, 5, marks=pytest.mark.wide),
    ],
)
def test_intervals_over_seeds_and_items_cover_the_truth(spread: float, seeds: int) -> None:
    rng, right = np.random.default_rng(0), truth(spread)
    tables = [drawn(rng, seeds, 50, spread) for _ in range(150)]
    held = np.mean([crossed_interval(table).holds(right) for table in tables])
    naive = np.mean([abs(table.mean() - right) < 1.96 * table.std() / table.size**0.5 for table in tables])

    assert held >= 0.90
    assert naive < 0.85 < held


def test_an_interval_over_seeds_and_groups_is_no_narrower_for_copies() -> None:
    table = np.repeat([[1.0, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1]], 3, axis=0)  # seeds do not differ
    groups = [str(i // 4) for i in range(48)]
    once = crossed_interval(table, groups=[str(i) for i in range(12)])
    copies = crossed_interval(np.repeat(table, 4, axis=1), groups=groups)

    assert copies == pytest.approx(once)
    assert crossed_interval(np.repeat(table, 4, axis=1)).low > copies.low
    assert crossed_interval(table, groups=groups[:12])[1:] == (-np.inf, np.inf)  # of three groups


def test_an_interval_is_never_narrower_than_over_items_alone_and_takes_gaps() -> None:
    rng = np.random.default_rng(0)
    table = (rng.random((3, 40)) < 0.7).astype(np.float64)
    gaps = table.copy()
    gaps[0, :10] = np.nan
    same = np.repeat(table[:1], 3, axis=0)
    one, whole, some = (crossed_interval(t) for t in (table[:1], table, gaps))

    assert one.low < one.estimate < one.high
    assert crossed_interval(same).low <= one.low
    assert crossed_interval(same).high >= one.high
    assert whole.estimate == pytest.approx(table.mean())
    assert some.estimate == pytest.approx(np.nanmean(gaps))
    assert np.isnan(crossed_interval(np.full((2, 3), np.nan)).estimate)
    assert crossed_interval(table, table).holds(0.0)


def entry(seed: int, rewards: list[float], reason: str = "") -> Entry:
    outcomes = tuple(
        replace(OUTCOMES[0], id=str(i), chosen=replace(OUTCOMES[0].chosen, reward=reward))
        for i, reward in enumerate(rewards)
    )
    return Entry(seed, "s", "run", RunOutcome(result=a_result(), outcomes=outcomes, reason=reason), Spending(10))


def test_the_best_is_marked_only_where_it_is_ahead_by_more_than_chance() -> None:
    good, close, poor = [1.0] * 38 + [0.0] * 2, [1.0] * 37 + [0.0] * 3, [1.0, 0.0] * 20
    rows = {
        name: row_of("t", "m", name, [entry(seed, rewards) for seed in (0, 1, 2)])
        for name, rewards in {"good": good, "close": close, "poor": poor}.items()
    }
    apart = ranked([rows["poor"], rows["good"]])
    near = ranked([rows["close"], rows["good"], rows["poor"]])

    assert [row.best for row in apart] == [False, True]
    assert [row.best for row in near] == [False, False, False]
    assert near[1].lead is not None
    assert near[0].lead is None


def test_kept_seed_prompts_and_one_prompt_in_two_rows_differ_by_nothing() -> None:
    kept = a_result(prompt=a_result().seed_prompt)
    entries = [
        one._replace(outcome=replace(one.outcome, result=kept)) for one in (entry(0, [1.0] * 9), entry(1, [0.0] * 9))
    ]
    row = row_of("t", "m", "s", entries)

    assert row.gain == (0.0, 0.0, 0.0)
    assert ranked([row, replace(row, strategy="other")])[0].lead == (0.0, 0.0, 0.0)


def test_rewards_are_paired_by_item_where_replies_failed() -> None:
    first = entry(0, [1.0] * 10)
    second = entry(1, [1.0] * 10)
    outcomes = second.outcome.outcomes  # of the first seed, no reply to item 0 of the chosen prompt
    failed = replace(outcomes[0], chosen=replace(outcomes[0].chosen, reward=None))
    seeds = [replace(o, seed=replace(o.seed, reward=float(i % 2))) for i, o in enumerate(outcomes)]
    seeds_failed = [replace(failed, seed=seeds[0].seed), *seeds[1:]]
    row = row_of(
        "t",
        "m",
        "s",
        [
            first._replace(outcome=replace(first.outcome, outcomes=tuple(seeds_failed))),
            second._replace(outcome=replace(second.outcome, outcomes=tuple(seeds))),
        ],
    )
    assert row.gain is not None
    assert row.gain.estimate == pytest.approx((4 + 5) / 19)  # item 0 of the first seed is no pair


def test_a_failed_seed_is_in_no_mean() -> None:
    row = row_of("t", "m", "s", [entry(0, [1.0] * 10), entry(1, [0.0] * 10, reason="stopped")])
    table = Table(name="x", rows=(row,))

    assert row.test is not None
    assert row.test.estimate == 1.0
    assert row.formatted()[3] == "1 of 2"
    assert table.to_json()["rows"][0]["seeds"][1]["test"] is None
    assert table.to_json()["rows"][0]["seeds"][1]["failed"] == "stopped"
    assert json.dumps(table.to_json(), allow_nan=False)


def test_the_example_is_a_sweep() -> None:
    spec = load_sweep(ROOT / "examples" / "tickets" / "sweep.toml")

    assert len(spec.strategy) > 1
    assert len(spec.seeds) > 1


def test_the_memo_of_the_sweep_holds_what_was_asked(swept: Any) -> None:
    home, _ = swept
    with Memo(home / "memo") as memo:
        assert memo.stats().entries == len({line.rsplit(",", 1)[0] for line in (home / "log").read_text().splitlines()})
