"""The way of a sweep: cells that are done are read, the others run, each is kept and recorded, all end in one table."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.errors import MissingExtraError
from promptopt.evaluation.ledger import Spending
from promptopt.memo.memo import Memo, default_location
from promptopt.report.compare import SavedRun, compare_runs
from promptopt.sweep.cells import Ran, keep, read_kept
from promptopt.sweep.plan import Plan, plan
from promptopt.sweep.pool import open_pool
from promptopt.sweep.portfolio import Portfolio, check_rungs, rungs
from promptopt.sweep.spec import load_sweep
from promptopt.sweep.study import SweepStudy
from promptopt.sweep.table import Entry, Row, Table, ranked, row_of
from promptopt.tracking.optuna_study import FILE as STUDY
from promptopt.utils.characters import printable
from promptopt.utils.files import make_private_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.sweep.cells import Cell
    from promptopt.sweep.pool import Pool

_WIDEST = 12  # runs on one page that compares


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
    """Run all runs of a sweep file that are not done yet, and return the table of all.

    Stopped in any way and started again, it goes on where it was: finished runs are read from their folders, the others
    answered from the memo as far as they had come. Failed ones are tried again.

    Args:
        file: the sweep file.
        folder: where runs, table and study go; by default `runs/` and the file's name.
        memo: folder or redis:// URL of the memo that all runs share; by default as `promptopt memo path` says.
        storage: URL of the Optuna storage that all runs share; by default `study.db` in `folder`.
        workers: runs at once, on Ray's workers; 0 for one after another in this process; None for as many as the machine has
            cores for, where Ray is installed.
        address: of a Ray cluster, such as "auto"; None starts one on this machine.
        tell: is told of each run that ends, in a sentence.

    Raises:
        InputError: the sweep cannot be run as it stands; nothing is spent.
        MissingExtraError: workers are asked for, and Ray is not installed.
    """
    path = Path(file)
    spec = load_sweep(path)
    planned = plan(spec, path)
    if spec.portfolio:
        check_rungs(planned, str(path))
    home = Path(folder) if folder is not None else Path("runs") / path.stem
    make_private_folder(home)
    place = memo or default_location()
    place = place if "://" in place else str(Path(place).expanduser().absolute())
    Memo(place).close()  # refused here, not in every run
    recorded = storage or (home / STUDY).resolve()
    choices: dict[str, list[Any]] = {
        "task": list(planned.tasks),
        "model": [model.label for model in spec.model],
        "strategy": [strategy.label for strategy in spec.strategy],
        "seed": list(spec.seeds),
    }
    study = SweepStudy(recorded, f"sweep {path.stem} {_digest(planned)}", choices)
    with ExitStack() as stack:
        stack.callback(study.close)

        def pool() -> Pool:
            return stack.enter_context(
                open_pool(place, recorded, workers=workers, address=address, cpus=spec.cpus, gpus=spec.gpus)
            )

        runs = _Runs(home, study, tell, pool)
        table = _portfolios(planned, runs) if spec.portfolio else _crossed(planned, runs)
    table = replace(table, name=path.stem)
    return _written(table, runs.kept, home)


@dataclass
class _Runs:
    """Cells that are run, or read where they are done.

    Args:
        folder: of the sweep.
        study: that they are recorded in.
        tell: is told of each.
        open: the pool, once it is needed.
        kept: what came of them, by name.
    """

    folder: Path
    study: SweepStudy
    tell: Callable[[str], None]
    open: Callable[[], Pool]
    kept: dict[str, tuple[Cell, Ran]] = field(default_factory=dict)
    _pool: Pool | None = None

    def __call__(self, cells: Sequence[Cell]) -> None:
        """See to it that something came of all cells."""
        left = []
        for cell in cells:
            done = read_kept(self.folder / cell.name)
            if done is None:
                left.append(cell)
            else:
                self._take(cell, done)
        if not left:
            return
        self.tell(f"{len(cells) - len(left)} of {len(cells)} runs are done, {len(left)} to go")
        if self._pool is None:
            self._pool = self.open()
        for cell, ran in self._pool.run(left):
            keep(ran, self.folder / cell.name)
            self._take(cell, ran)
            said = f"failed: {ran.reason}" if ran.reason else ran.result.headline if ran.result else ""
            self.tell(f"{cell.task}, {cell.model.label}, {cell.strategy.label}, seed {cell.seed}: {said}")

    def _take(self, cell: Cell, ran: Ran) -> None:
        self.kept[cell.name] = (cell, ran)
        self.study.add(cell, ran)

    def of(self, cell: Cell) -> Ran:
        """Return what came of a cell."""
        return self.kept[cell.name][1]


def _crossed(planned: Plan, runs: _Runs) -> Table:
    """Run every strategy in every place with every seed."""
    spec = planned.spec
    cells = {(place, seed): planned.cells(place, spec.budget, seed) for place in planned.places for seed in spec.seeds}
    runs([cell for row in cells.values() for cell in row])
    rows = []
    for place in planned.places:
        for number, strategy in enumerate(spec.strategy):
            here = [(seed, cells[place, seed][number]) for seed in spec.seeds]
            entries = [_entry(seed, cell, runs.of(cell)) for seed, cell in here]
            rows.append(row_of(place.task, place.model.label, strategy.label, entries))
    return Table(name="", rows=ranked(rows), notes=_notes(rows, planned))


def _portfolios(planned: Plan, runs: _Runs) -> Table:
    """Let the strategies of every place and seed compete, all places and seeds round by round."""
    spec = planned.spec
    every = list(range(len(spec.strategy)))
    competing = [Portfolio(planned, place, seed, list(every)) for place in planned.places for seed in spec.seeds]
    steps = rungs(spec.budget, len(every))
    for number, rung in enumerate(steps):
        cells = [portfolio.cells(number, rung) for portfolio in competing]
        runs([cell for row in cells for cell in row])
        left = steps[number + 1].arms if number + 1 < len(steps) else 1
        for portfolio, row in zip(competing, cells, strict=True):
            portfolio.take(row, runs.of, left)
    runs([portfolio.winner for portfolio in competing if portfolio.winner is not None])
    rows = []
    for place in planned.places:
        entries = [_picked(portfolio, runs) for portfolio in competing if portfolio.place == place]
        rows.append(row_of(place.task, place.model.label, "portfolio", entries))
    rounds = [
        {"task": one.place.task, "model": one.place.model.label, "seed": one.seed, "rounds": one.rounds}
        for one in competing
    ]
    return Table(name="", rows=tuple(rows), notes=_notes(rows, planned), rounds=tuple(rounds))


def _entry(seed: int, cell: Cell, ran: Ran) -> Entry:
    used = Spending() if ran.result is None else sum(ran.result.used.values(), Spending())
    return Entry(seed, cell.strategy.label, cell.name, ran, used)


def _picked(portfolio: Portfolio, runs: _Runs) -> Entry:
    """Return what came of a portfolio: the last run, or why there was none."""
    if portfolio.winner is None:
        return Entry(portfolio.seed, "", "", Ran(reason=portfolio.reason), portfolio.used)
    last = runs.of(portfolio.winner)
    portfolio.spent |= last.calls.uses
    return Entry(portfolio.seed, portfolio.winner.strategy.label, portfolio.winner.name, last, portfolio.used)


def _notes(rows: Sequence[Row], planned: Plan) -> tuple[str, ...]:
    out = []
    if len(planned.spec.seeds) == 1:
        out.append("one seed: the intervals are over test items alone, and say nothing of other seeds")
    out += [
        f"{row.task}, {row.model}, portfolio: chose {', '.join(f'{e.strategy} (seed {e.seed})' for e in row.whole)}"
        for row in rows
        if planned.spec.portfolio and row.whole
    ]
    untested = [row for row in rows if any(not e.ran.reason and not e.ran.outcomes for e in row.entries)]
    out += [f"{row.task}, {row.model}, {row.strategy}: a run has no test; its notes say why" for row in untested]
    return tuple(out)


def _written(table: Table, kept: dict[str, tuple[Cell, Ran]], folder: Path) -> Table:
    """Write table and comparison; return the table with a note where a page could not be written."""
    pages = _pages(kept)
    try:
        from promptopt.report.page import comparison_page, write_page  # noqa: PLC0415  the extra 'report'

        for name, runs in pages.items():
            write_page(comparison_page(compare_runs(runs)), folder / name)
    except MissingExtraError as error:
        table = replace(table, notes=(*table.notes, f"no page that compares the runs: {error}"))
    write_private(folder / "sweep.md", printable(table.markdown()))
    text = json.dumps(table.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    write_private(folder / "sweep.json", text)
    return table


def _pages(kept: dict[str, tuple[Cell, Ran]]) -> dict[str, list[SavedRun]]:
    """Return the runs of each page: those of one task and model, of the first seed alone where they are many."""
    places: dict[tuple[str, str], list[tuple[Cell, SavedRun]]] = {}
    for cell, ran in kept.values():
        if ran.result is None or ran.reason or cell.rung is not None:
            continue
        name = f"{cell.strategy.label}, seed {cell.seed}"
        saved = SavedRun(name=name, result=ran.result, outcomes=ran.outcomes)
        places.setdefault((cell.task, cell.model.label), []).append((cell, saved))
    out: dict[str, list[SavedRun]] = {}
    for number, row in enumerate(places.values(), 1):
        first = row if len(row) <= _WIDEST else [one for one in row if one[0].seed == row[0][0].seed]
        if len(first) > 1:
            out["sweep.html" if len(places) == 1 else f"sweep-{number}.html"] = [saved for _, saved in first]
    return out


def _digest(planned: Plan) -> str:
    """Return what tells this sweep from others of its name."""
    spec = planned.spec
    values = spec.model_dump(mode="python") | {"budget": str(spec.budget), "total": str(spec.total)}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]
