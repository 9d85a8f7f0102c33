"""A pool of Ray actors that all hold the same model. Parts of a batch go to idle actors and are retried if an actor dies.

Ray restarts actors, on another node if necessary, but it does not count how many actors died on the same part; this
module does. It knows nothing of how a batch is partitioned or where replies are kept.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections import Counter, deque
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from promptopt.errors import FinalModelError, InputError, PromptoptError
from promptopt.models.base import LabelModel
from promptopt.models.kinds import load_in_process
from promptopt.replies import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from promptopt.models.base import Model, Request
    from promptopt.prompt import Context
    from promptopt.replies import Arrival

DEATHS = 3
"""Replicas that may die while computing one part; after that many, its requests fail."""

_WARN_AFTER = 30.0  # seconds to wait for a replica before logging a warning
_CONNECT_TIMEOUT = 10.0  # seconds
_QUIET: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
_DIED = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)

_log = logging.getLogger(__name__)


class Replica:
    """One copy of the model, in the process of a Ray actor.

    Args:
        spec: of the model, as in `load_model`.
        threads: CPU threads that a local model may use.
    """

    def __init__(self, spec: str, threads: int) -> None:
        self.spec = spec
        # Set before torch and tokenizers are imported, which read them once.
        os.environ |= {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}

    def ready(self) -> bool:
        """Return True: the actor is running."""
        return True

    def fingerprint(self) -> dict[str, Any]:
        """Return the fingerprint of the model on this node.

        Raises:
            InputError: the model cannot be loaded on this node.
        """
        return dict(self._model.fingerprint)

    def generate(self, fingerprint: Mapping[str, Any], requests: Sequence[Request]) -> list[Arrival]:
        """Return the replies to all requests.

        Raises:
            InputError: the model on this node has a different fingerprint.
        """
        self._check(fingerprint)
        return list(self._model.generate(requests))

    def label_logprobs(
        self, fingerprint: Mapping[str, Any], contexts: Sequence[Context], labels: Sequence[str]
    ) -> list[Arrival]:
        """Return the label log-probabilities for all contexts.

        Raises:
            InputError: the model on this node has a different fingerprint, or gives no log-probabilities.
        """
        self._check(fingerprint)
        if not isinstance(self._model, LabelModel):
            raise InputError(f"on the node {platform.node()}, {self.spec} gives no log-probabilities of labels")
        return list(self._model.label_logprobs(contexts, labels))

    @cached_property
    def _model(self) -> Model:
        try:
            return load_in_process(*self.spec.split(":", 1))
        except PromptoptError as error:
            raise InputError(
                f"the node {platform.node()} cannot load {self.spec} ({error}): put the model on every node under the "
                "same name, or use `resources` to choose nodes that have it"
            ) from error

    def _check(self, fingerprint: Mapping[str, Any]) -> None:
        if dict(fingerprint) != self.fingerprint():
            raise InputError(_mismatch_message(self.spec, {"others": fingerprint, platform.node(): self.fingerprint()}))


class Part(NamedTuple):
    """Part of a batch, computed by one replica.

    Args:
        indices: the requests' indices in the batch.
        method: name of the `Replica` method to call.
        arguments: its arguments after the fingerprint.
    """

    indices: Sequence[int]
    method: str
    arguments: tuple[Any, ...]


class Pool:
    """A pool of replicas, each in a Ray actor.

    Args:
        spec: of the model.
        replicas: number of replicas.
        resources: per replica: "CPU", "GPU" or a custom Ray resource; None gives each a GPU if there are enough, and
            an equal share of the CPU cores.
        address: of a Ray cluster, or "auto" for the one on this machine; None starts Ray here. If the process is
            already connected to a cluster, that one is used.

    Raises:
        InputError: there is no cluster at the address, or it has no room for so many replicas.
    """

    def __init__(self, spec: str, replicas: int, resources: Mapping[str, float] | None, address: str | None) -> None:
        connect(address)
        self._spec = spec
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        shares = share(nodes, replicas, resources)
        custom = {name: amount for name, amount in shares.items() if name not in {"CPU", "GPU"}}
        actor: Any = ray.remote(Replica).options(
            num_cpus=shares["CPU"],
            num_gpus=shares.get("GPU", 0),
            resources=custom,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._replicas: list[Any] = [actor.remote(spec, max(int(shares["CPU"]), 1)) for _ in range(replicas)]

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """The fingerprint that all replicas share.

        Raises:
            InputError: a replica cannot start, or the replicas have different models.
        """
        refs = [replica.fingerprint.options(max_task_retries=DEATHS).remote() for replica in self._replicas]
        try:
            fingerprints = [_get(_wait_for_first([ref], warn_after=_WARN_AFTER)) for ref in refs]
        except _DIED as error:
            raise InputError(
                f"a replica of {self._spec} could not start ({_one_line(error)}): every node needs promptopt, the extras "
                "'scale' and 'local', and the same versions of Python and Ray as this machine"
            ) from error
        if any(other != fingerprints[0] for other in fingerprints):
            by_replica = {f"replica {index}": fingerprint for index, fingerprint in enumerate(fingerprints)}
            raise InputError(_mismatch_message(self._spec, by_replica))
        return dict(fingerprints[0])

    def run(self, parts: Sequence[Part]) -> Iterator[tuple[Part, list[Arrival] | Failure]]:
        """Yield each part as soon as it is done, with its replies (numbered within the part) or the failure.

        A part whose replica died is retried on the next idle replica; after `DEATHS` deaths it fails.

        Raises:
            FinalModelError: no replica is left, and Ray restarts none.
            PromptoptError: raised by a replica.
        """
        waiting, deaths = deque(range(len(parts))), Counter[int]()
        # By pending reference: the replica and the index of its part, or None while the replica starts or restarts.
        pending: dict[Any, tuple[Any, int | None]] = {_ready(replica): (replica, None) for replica in self._replicas}
        idle: list[Any] = []
        while waiting or any(index is not None for _, index in pending.values()):
            while waiting and idle:
                replica, index = idle.pop(0), waiting.popleft()
                part = parts[index]
                ref = getattr(replica, part.method).remote(self.fingerprint, *part.arguments)
                pending[ref] = replica, index
            working = idle or any(index is not None for _, index in pending.values())
            ref = _wait_for_first(list(pending), warn_after=None if working else _WARN_AFTER)
            replica, done = pending.pop(ref)
            try:
                replies = _get(ref)
            except _DIED as error:
                _log.warning("a replica of %s died: %s", self._spec, _one_line(error))
                if done is None:
                    self._drop(replica, error)
                    continue
                pending[_ready(replica)] = replica, None
                deaths[done] += 1
                if deaths[done] < DEATHS:
                    waiting.appendleft(done)
                else:
                    yield parts[done], _part_failure(parts[done], error)
                continue
            idle.append(replica)
            if done is not None:
                yield parts[done], replies

    def _drop(self, replica: Any, error: Exception) -> None:
        """Remove a replica that Ray cannot restart.

        Raises:
            FinalModelError: it was the last.
        """
        self._replicas = [other for other in self._replicas if other is not replica]
        if not self._replicas:
            raise FinalModelError(f"no replica of {self._spec} is left: {_one_line(error)}") from error


def connect(address: str | None) -> None:
    """Connect this process to a Ray cluster, or start Ray on this machine; does nothing if already connected.

    Raises:
        InputError: there is no cluster at the address, or Ray does not start on this machine.
    """
    if ray.is_initialized():
        return
    if address in {None, "local"}:
        _start()
        return
    try:
        if address != "auto":
            _check_reachable(str(address))
        ray.init(address=address, **_QUIET)
    except (OSError, ValueError) as error:
        raise InputError(
            f"there is no Ray cluster at {address!r} ({_one_line(error)}): start one with `ray start --head`, give its address as "
            "HOST:PORT, or give none to use only this machine"
        ) from error


def _start() -> None:
    """Start Ray on this machine."""
    try:
        ray.init(address="local", **_QUIET)
    except Exception as error:  # Ray raises plain exceptions, for example on a machine too busy to start in time
        raise InputError(
            f"Ray did not start on this machine ({_one_line(error)}): try again, or run without it, in this process"
        ) from error


def _check_reachable(address: str) -> None:
    """Raise OSError or ValueError if nothing listens at the address; Ray itself would retry for minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT).close()


def share(
    nodes: Sequence[Mapping[str, float]], replicas: int, requested: Mapping[str, float] | None
) -> Mapping[str, float]:
    """Return the resources of each replica: those requested and, unless given, the most CPU cores that fit.

    Args:
        nodes: resources of each node.
        replicas: number of replicas.
        requested: resources per replica; None gives each a GPU if there are enough.

    Raises:
        InputError: the nodes have no room for so many replicas.
    """

    def capacity(resources: Mapping[str, float]) -> float:
        """Return how many replicas with such resources fit on the nodes."""
        needed = {name: amount for name, amount in resources.items() if amount}
        if not needed:
            return replicas
        return sum(min(node.get(name, 0) // amount for name, amount in needed.items()) for node in nodes)

    if requested is None:
        requested = {"GPU": 1.0} if capacity({"GPU": 1, "CPU": 1}) >= replicas else {}
    max_cores = int(max((node.get("CPU", 0) for node in nodes), default=0))
    choices = [{"CPU": float(cores), **requested} for cores in range(max(max_cores, 1), 0, -1)]
    resources = next((choice for choice in choices if capacity(choice) >= replicas), choices[-1])
    if capacity(resources) < replicas:
        available = "; ".join(str({name: node[name] for name in resources if name in node}) for node in nodes)
        raise InputError(
            f"only {capacity(resources):.0f} of {replicas} replicas with {resources} each fit on the nodes ({available}): "
            "use fewer replicas, or set smaller `resources` for each"
        )
    return resources


def _ready(replica: Any) -> Any:
    """Return a reference that resolves once the replica is running, including after a restart."""
    return replica.ready.options(max_task_retries=-1).remote()


def _wait_for_first(refs: list[Any], warn_after: float | None) -> Any:
    """Return the first reference to resolve; log a warning if that takes longer than `warn_after` seconds."""
    done, _ = ray.wait(refs, num_returns=1, timeout=warn_after)
    if not done:
        _log.warning("no replica has started yet: waiting for Ray to find resources")
        done, _ = ray.wait(refs, num_returns=1)
    return done[0]


def _get(ref: Any) -> Any:
    """Return a result, or raise the replica's own error without Ray's wrapper."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, PromptoptError):
            raise error.cause from None
        raise


def _part_failure(part: Part, error: Exception) -> Failure:
    return Failure(
        f"{DEATHS} replicas died, one after the other, over the {len(part.indices)} requests in this one's part of the batch; "
        f"last error: {_one_line(error)}"
    )


def _mismatch_message(spec: str, fingerprints: Mapping[str, Mapping[str, Any]]) -> str:
    listed = "; ".join(f"{name}: {dict(fingerprint)}" for name, fingerprint in fingerprints.items())
    return (
        f"replicas of {spec} are not the same model ({listed}): put the same files on every node, and use nodes whose "
        "CPUs or GPUs support the same dtype"
    )


def _one_line(error: Exception) -> str:
    """Return the error's message in one line."""
    return " ".join(str(error).split())[:300]
