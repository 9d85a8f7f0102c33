"""Who runs the cells: this process, one after another, or Ray's workers. The results are the same.

Ray is imported when it is asked for.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from promptopt.errors import InputError, MissingExtraError
from promptopt.sweep.cells import Ran, run_cell

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from promptopt.sweep.cells import Cell

_STOPPED = "stopped by the user"  # how a run that Ctrl-C ended says so


class Pool(Protocol):
    """Runs cells."""

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Ran]]:
        """Yield each cell with what came of it, in whatever order they end."""
        ...


class InTurn:
    """One after another, in this process.

    Args:
        memo: folder or URL of the memo.
        storage: that runs are recorded in: a URL, or the path of an SQLite file.
    """

    def __init__(self, memo: str, storage: str | Path) -> None:
        self.memo = memo
        self.storage = storage

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Ran]]:
        """Run them in order; Ctrl-C ends the cell that runs, and then the sweep."""
        for cell in cells:
            ran = run_cell(cell, self.memo, self.storage)
            yield cell, ran
            if ran.reason == _STOPPED:
                raise KeyboardInterrupt


class OnRay:
    """Cells as Ray tasks. A worker that dies is replaced, and its cell, most of it in the memo by then, is run again.

    Args:
        ray: the module, connected.
        memo: folder or URL of the memo.
        storage: as of `InTurn`.
        workers: cells at once, at most; None leaves that to Ray.
        needs: what a cell takes, as Ray's options say it.
    """

    def __init__(
        self, ray: Any, memo: str, storage: str | Path, *, workers: int | None, needs: dict[str, float]
    ) -> None:
        self.ray = ray
        self.given = (memo, storage)
        self.workers = workers
        self.task = ray.remote(**needs)(run_cell)

    def run(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Ran]]:
        """Run as many at once as there are workers."""
        left, going = list(reversed(cells)), dict[Any, Any]()
        while left or going:
            while left and (self.workers is None or len(going) < self.workers):
                cell = left.pop()
                going[self.task.remote(cell, *self.given)] = cell
            (ended, *_), _ = self.ray.wait(list(going))
            yield going.pop(ended), self._got(ended)

    def _got(self, ended: Any) -> Ran:
        try:
            ran: Ran = self.ray.get(ended)
        except self.ray.exceptions.RayTaskError:
            raise  # an error in somebody's code, as in this process
        except self.ray.exceptions.RayError as error:
            return Ran(reason=f"its worker died: {str(error).splitlines()[0]}")
        return ran


@contextmanager
def open_pool(
    memo: str,
    storage: str | Path,
    *,
    workers: int | None,
    address: str | None,
    cpus: float,
    gpus: float,
) -> Generator[Pool]:
    """Open what `run_sweep` asks for: Ray where there is a worker to be, else this process.

    Raises:
        InputError: the cluster cannot be reached, has too little for one cell, or has several nodes and the memo or the
            storage is a file of one of them.
        MissingExtraError: Ray is asked for and not installed.
    """
    if address is None and (workers == 0 or (workers is None and not _has_ray())):
        yield InTurn(memo, storage)
        return
    if workers == 0:
        raise InputError("--workers 0 runs in this process, and --ray names a cluster: leave one of them out")
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers unless told before
        import ray  # noqa: PLC0415  the extra 'scale', a second
    except ImportError as error:
        raise MissingExtraError("a sweep on several processes", "scale") from error
    from promptopt.models.replicas.pool import connect  # noqa: PLC0415  as above

    ours = not ray.is_initialized()
    connect(address)
    try:
        _check(ray, memo, storage, {"CPU": cpus, "GPU": gpus})
        yield OnRay(ray, memo, storage, workers=workers, needs={"num_cpus": cpus, "num_gpus": gpus})
    finally:
        if ours:
            ray.shutdown()


def _has_ray() -> bool:
    from importlib.util import find_spec  # noqa: PLC0415  one name

    return find_spec("ray") is not None


def _check(ray: Any, memo: str, storage: str | Path, needs: dict[str, float]) -> None:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    for name, wanted in needs.items():
        most = max(node["Resources"].get(name, 0.0) for node in nodes)
        if wanted > most:
            key = f"{name.lower()}s"
            raise InputError(
                f"{key} = {wanted:g}, and no machine here has more than {most:g}: give {key} = {most:g} or less"
            )
    if len(nodes) == 1:
        return
    if "://" not in memo:
        raise InputError(
            f"the cluster has {len(nodes)} nodes, and the memo in {memo} is a folder of this one: give --memo redis://HOST"
        )
    if str(storage).startswith("sqlite") or isinstance(storage, Path):
        raise InputError(
            f"the cluster has {len(nodes)} nodes, and the study is a file of this one: give "
            "--study postgresql+psycopg://USER@HOST/NAME"
        )
