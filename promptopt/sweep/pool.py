"""Execute the runs of a sweep: sequentially in this process, or on Ray. The results are the same.

Ray is imported on demand.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from promptopt.errors import STOPPED, InputError, MissingExtraError
from promptopt.sweep.single_run import RunOutcome, execute_run

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from promptopt.sweep.single_run import RunSpec


class Pool(Protocol):
    """Executes runs."""

    def run(self, run_specs: Sequence[RunSpec]) -> Iterator[tuple[RunSpec, RunOutcome]]:
        """Yield each run with its outcome, in order of completion."""
        ...


class SequentialPool:
    """Executes runs one by one in this process.

    Args:
        memo: folder or URL of the memo.
        storage: Optuna storage of the runs: a URL, or the path of an SQLite file.
        folder: folder of the sweep, in which runs write their events.
    """

    def __init__(self, memo: str, storage: str | Path, folder: Path) -> None:
        self.memo = memo
        self.storage = storage
        self.folder = folder

    def run(self, run_specs: Sequence[RunSpec]) -> Iterator[tuple[RunSpec, RunOutcome]]:
        """Execute runs in order. Ctrl-C ends the current run, and then the sweep."""
        for run_spec in run_specs:
            outcome = execute_run(run_spec, self.memo, self.storage, self.folder)
            yield run_spec, outcome
            if outcome.reason == STOPPED:
                raise KeyboardInterrupt


class RayPool:
    """Executes runs as Ray tasks. If a worker dies, Ray replaces it and repeats its run, mostly from the memo.

    Args:
        ray: the ray module, connected to a cluster.
        memo: folder or URL of the memo.
        storage: see `SequentialPool`.
        folder: see `SequentialPool`; None on a cluster, whose machines may not have it.
        workers: maximum parallel runs; None lets Ray decide.
        resources: resources per run, as options of `ray.remote`.
    """

    def __init__(
        self,
        ray: Any,
        memo: str,
        storage: str | Path,
        folder: Path | None,
        *,
        workers: int | None,
        resources: dict[str, float],
    ) -> None:
        self.ray = ray
        self.storage_args = (memo, storage, folder)
        self.workers = workers
        self.task = ray.remote(**resources)(execute_run)

    def run(self, run_specs: Sequence[RunSpec]) -> Iterator[tuple[RunSpec, RunOutcome]]:
        """Execute up to `workers` runs in parallel."""
        pending, running = list(reversed(run_specs)), dict[Any, Any]()
        while pending or running:
            while pending and (self.workers is None or len(running) < self.workers):
                run_spec = pending.pop()
                running[self.task.remote(run_spec, *self.storage_args)] = run_spec
            (ended, *_), _ = self.ray.wait(list(running))
            yield running.pop(ended), self._outcome_of(ended)

    def _outcome_of(self, ended: Any) -> RunOutcome:
        try:
            outcome: RunOutcome = self.ray.get(ended)
        except self.ray.exceptions.RayTaskError:
            raise  # an unexpected error, raised as in `SequentialPool`
        except self.ray.exceptions.RayError as error:
            return RunOutcome(reason=f"its worker died: {str(error).splitlines()[0]}")
        return outcome


@contextmanager
def open_pool(
    memo: str,
    storage: str | Path,
    folder: Path,
    *,
    workers: int | None,
    address: str | None,
    cpus: float,
    gpus: float,
) -> Generator[Pool]:
    """Open a pool for `run_sweep`: on Ray if workers or a cluster's address are given, otherwise in this process.

    Raises:
        InputError: the cluster cannot be reached, lacks the resources for one run, or has several nodes although the memo
            or the storage is a local file.
        MissingExtraError: Ray is requested but not installed.
    """
    if address is None and not workers:
        yield SequentialPool(memo, storage, folder)
        return
    if workers == 0:
        raise InputError(
            "--workers 0 (run in this process) and --ray (run on a cluster) contradict each other: give one of them"
        )
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # opt out of Ray's telemetry
        import ray  # noqa: PLC0415  extra 'scale'; takes a second to import
    except ImportError as error:
        raise MissingExtraError("a sweep on several processes", "scale") from error
    from promptopt.models.replicas.pool import connect  # noqa: PLC0415  as above

    started_here = not ray.is_initialized()
    connect(address)
    try:
        _check_cluster(ray, memo, storage, {"CPU": cpus, "GPU": gpus})
        resources = {"num_cpus": cpus, "num_gpus": gpus}
        yield RayPool(ray, memo, storage, folder if address is None else None, workers=workers, resources=resources)
    finally:
        if started_here:
            ray.shutdown()


def _check_cluster(ray: Any, memo: str, storage: str | Path, resources: dict[str, float]) -> None:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    for name, wanted in resources.items():
        available = max(node["Resources"].get(name, 0.0) for node in nodes)
        if wanted > available:
            key = f"{name.lower()}s"
            raise InputError(
                f"{key} = {wanted:g}, but no machine has more than {available:g}: set {key} = {available:g} or less"
            )
    if len(nodes) == 1:
        return
    if "://" not in memo:
        raise InputError(
            f"the cluster has {len(nodes)} nodes, but the memo in {memo} is a folder on this one: give --memo redis://HOST"
        )
    if str(storage).startswith("sqlite") or isinstance(storage, Path):
        raise InputError(
            f"the cluster has {len(nodes)} nodes, but the study is a file on this one: give "
            "--study postgresql+psycopg://USER@HOST/NAME"
        )
