"""Run a sweep: load finished runs, execute the others, save and record each outcome, and build the table."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.errors import STOPPED
from promptopt.evaluation.ledger import Spending
from promptopt.memo.memo import Memo, default_location
from promptopt.sweep.plan import Plan, plan_sweep
from promptopt.sweep.pool import open_pool
from promptopt.sweep.portfolio import Portfolio, check_rungs, rungs
from promptopt.sweep.single_run import RunOutcome, load_outcome, save_outcome
from promptopt.sweep.spec import load_sweep
from promptopt.sweep.study import SweepStudy
from promptopt.sweep.table import Entry, Row, Table, label_biases, ranked, row_of, unequal_examples
from promptopt.sweep.writing import write_table
from promptopt.tracking.optuna_study import FILE as STUDY
from promptopt.utils.files import make_private_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.sweep.pool import Pool
    from promptopt.sweep.single_run import RunSpec


def run_sweep(
    file: str | Path,
    *,
    folder: str | Path | None = None,
    memo: str | None = None,
    storage: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Table:
    """Execute the unfinished runs of a sweep file and return the table of all runs.

    A stopped sweep resumes when it is started again: finished runs are loaded from their folders, and the others reuse the
    replies in the memo. Failed runs are tried again.

    Args:
        file: the sweep file.
        folder: folder for runs, table and study; by default `runs/` plus the file's name without extension.
        memo: folder or redis:// URL of the memo shared by all runs; by default the one that `promptopt memo path` prints.
        storage: Optuna storage URL shared by all runs; by default `study.db` in `folder`.
        workers: maximum parallel runs on Ray; 0 runs them one by one in this process; None is 0, or, with an
            address, as many as the cluster's cores allow.
        address: address of a Ray cluster, such as "auto"; None starts one on this machine.
        tell: called with a one-sentence message when a run ends.

    Raises:
        InputError: the sweep file or an option is invalid; nothing was spent.
        MissingExtraError: workers are requested, but Ray is not installed.
    """
    path = Path(file)
    spec = load_sweep(path)
    plan = plan_sweep(spec, path)
    if spec.portfolio:
        check_rungs(plan, str(path))
    run_folder = Path(folder) if folder is not None else Path("runs") / path.stem
    make_private_folder(run_folder)
    location = memo or default_location()
    location = location if "://" in location else str(Path(location).expanduser().absolute())
    Memo(location).close()  # fail here rather than in every run
    study_storage = storage or (run_folder / STUDY).resolve()
    choices: dict[str, list[Any]] = {
        "task": list(plan.tasks),
        "model": [model.label for model in spec.model],
        "strategy": [strategy.label for strategy in spec.strategy],
        "seed": list(spec.seeds),
    }
    study = SweepStudy(study_storage, f"sweep {path.stem} {_digest(plan)}", choices)
    with ExitStack() as stack:
        stack.callback(study.close)

        def pool() -> Pool:
            return stack.enter_context(
                open_pool(
                    location,
                    study_storage,
                    run_folder.absolute(),
                    workers=workers,
                    address=address,
                    cpus=spec.cpus,
                    gpus=spec.gpus,
                )
            )

        executor = _RunExecutor(run_folder, study, tell, pool)
        table = _run_portfolios(plan, executor) if spec.portfolio else _run_grid(plan, executor)
    table = replace(table, name=path.stem)
    return write_table(table, run_folder)


@dataclass
class _RunExecutor:
    """Executes runs, or loads them if they are finished.

    Args:
        folder: folder of the sweep.
        study: study to record the runs in.
        report_progress: called with a message when a run ends.
        open_pool: opens the pool when it is first needed.
        outcomes: runs and their outcomes, by name.
    """

    folder: Path
    study: SweepStudy
    report_progress: Callable[[str], None]
    open_pool: Callable[[], Pool]
    outcomes: dict[str, tuple[RunSpec, RunOutcome]] = field(default_factory=dict)
    _pool: Pool | None = None

    def __call__(self, run_specs: Sequence[RunSpec]) -> None:
        """Execute or load all the given runs."""
        pending = []
        for run_spec in run_specs:
            saved = load_outcome(self.folder / run_spec.name)
            if saved is None:
                pending.append(run_spec)
            else:
                self._record(run_spec, saved)
        if not pending:
            return
        self.report_progress(
            f"{len(run_specs) - len(pending)} of {len(run_specs)} runs finished, {len(pending)} remaining"
        )
        if self._pool is None:
            self._pool = self.open_pool()
        ended = len(run_specs) - len(pending)
        for number, (run_spec, outcome) in enumerate(self._pool.run(pending), ended + 1):
            save_outcome(outcome, self.folder / run_spec.name)
            self._record(run_spec, outcome)
            self.report_progress(
                f"{number} of {len(run_specs)}: {run_spec.task}, {run_spec.model.label}, {run_spec.strategy.label}, "
                f"seed {run_spec.seed}: {_summary(outcome)}"
            )

    def _record(self, run_spec: RunSpec, outcome: RunOutcome) -> None:
        self.outcomes[run_spec.name] = (run_spec, outcome)
        self.study.add(run_spec, outcome)

    def outcome_of(self, run_spec: RunSpec) -> RunOutcome:
        """Return the outcome of an executed or loaded run."""
        return self.outcomes[run_spec.name][1]


def _summary(outcome: RunOutcome) -> str:
    """Return how a run ended, in a sentence."""
    if outcome.reason == STOPPED:
        return f"{STOPPED}; run the sweep again to continue"
    if outcome.reason:
        return f"failed: {outcome.reason}"
    return outcome.result.headline if outcome.result else ""


def _run_grid(plan: Plan, executor: _RunExecutor) -> Table:
    """Run every strategy on every task and model with every seed."""
    spec = plan.spec
    run_specs = {(pair, seed): plan.run_specs(pair, spec.budget, seed) for pair in plan.pairs for seed in spec.seeds}
    executor([run_spec for row in run_specs.values() for run_spec in row])
    rows = []
    for pair in plan.pairs:
        for index, strategy in enumerate(spec.strategy):
            by_seed = [(seed, run_specs[pair, seed][index]) for seed in spec.seeds]
            entries = [_entry(seed, run_spec, executor.outcome_of(run_spec)) for seed, run_spec in by_seed]
            rows.append(row_of(pair.task, pair.model.label, strategy.label, entries))
    return Table(name="", rows=ranked(rows), notes=_notes(rows, plan))


def _run_portfolios(plan: Plan, executor: _RunExecutor) -> Table:
    """Run the portfolios of every task, model and seed together, round by round."""
    spec = plan.spec
    strategies = list(range(len(spec.strategy)))
    portfolios = [Portfolio(plan, pair, seed, list(strategies)) for pair in plan.pairs for seed in spec.seeds]
    rounds = rungs(spec.budget, len(strategies))
    for number, rung in enumerate(rounds):
        run_specs = [portfolio.run_specs(number, rung) for portfolio in portfolios]
        executor([run_spec for row in run_specs for run_spec in row])
        keep = rounds[number + 1].arms if number + 1 < len(rounds) else 1
        for portfolio, row in zip(portfolios, run_specs, strict=True):
            portfolio.finish_round(row, executor.outcome_of, keep)
    executor([portfolio.winner for portfolio in portfolios if portfolio.winner is not None])
    rows = []
    for pair in plan.pairs:
        entries = [_portfolio_entry(portfolio, executor) for portfolio in portfolios if portfolio.pair == pair]
        rows.append(row_of(pair.task, pair.model.label, "portfolio", entries))
    round_records = [
        {"task": p.pair.task, "model": p.pair.model.label, "seed": p.seed, "rounds": p.rounds} for p in portfolios
    ]
    return Table(name="", rows=tuple(rows), notes=_notes(rows, plan), rounds=tuple(round_records))


def _entry(seed: int, run_spec: RunSpec, outcome: RunOutcome) -> Entry:
    used = Spending() if outcome.result is None else sum(outcome.result.used.values(), Spending())
    return Entry(seed, run_spec.strategy.label, run_spec.name, outcome, used)


def _portfolio_entry(portfolio: Portfolio, executor: _RunExecutor) -> Entry:
    """Return the entry of a portfolio: its final run, or why there was none."""
    if portfolio.winner is None:
        return Entry(portfolio.seed, "", "", RunOutcome(reason=portfolio.reason), portfolio.used)
    final = executor.outcome_of(portfolio.winner)
    portfolio.spent |= final.calls.usage
    return Entry(portfolio.seed, portfolio.winner.strategy.label, portfolio.winner.name, final, portfolio.used)


def _notes(rows: Sequence[Row], plan: Plan) -> tuple[str, ...]:
    notes = []
    if len(plan.spec.seeds) == 1:
        notes.append("only one seed: the intervals cover variation between test examples, not between seeds")
    notes += [
        f"{row.task}, {row.model}, portfolio: selected {', '.join(f'{e.strategy} (seed {e.seed})' for e in row.complete)}"
        for row in rows
        if plan.spec.portfolio and row.complete
    ]
    untested = [row for row in rows if any(not e.outcome.reason and not e.outcome.outcomes for e in row.entries)]
    notes += [f"{row.task}, {row.model}, {row.strategy}: a run has no test; see its notes" for row in untested]
    return (*notes, *label_biases(rows), *unequal_examples(rows))


def _digest(plan: Plan) -> str:
    """Return a digest that distinguishes this sweep from others of the same name; callbacks decide no run."""
    spec = plan.spec
    values = spec.model_dump(mode="python", exclude={"callbacks"}) | {
        "budget": str(spec.budget),
        "total": str(spec.total),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]
