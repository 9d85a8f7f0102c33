"""A pool of actors on Ray, each with the model of one spec. Parts of a batch go to whoever is free, and again where one died.

Ray restarts actors, on another node where one is lost; what it does not do is count how often the same part was in an
actor that died. Knows nothing of how a batch is cut, or where replies are kept.
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
from promptopt.models.here import load_here
from promptopt.replies import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from promptopt.models.base import Model, Request
    from promptopt.prompt import Context
    from promptopt.replies import Arrival

DEATHS = 3
"""Of replicas over one part; then its requests fail."""

_PATIENCE = 30.0  # seconds to wait for a replica before a line is logged
_REACHED = 10.0  # seconds within which a cluster's port must answer
_DIED = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)

_log = logging.getLogger(__name__)


class Replica:
    """The model of a spec, on the node and in the process of an actor.

    Args:
        spec: as `load_model` reads it.
        threads: that a local model may compute with.
    """

    def __init__(self, spec: str, threads: int) -> None:
        self.spec = spec
        # Read when torch and the tokenizers are first loaded, which is later.
        os.environ |= {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}

    def ready(self) -> bool:
        """Answer: the actor is there."""
        return True

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the replies of the model here.

        Raises:
            InputError: this node does not have it.
        """
        return dict(self._model.fingerprint)

    def generate(self, fingerprint: Mapping[str, Any], requests: Sequence[Request]) -> list[Arrival]:
        """Return all replies.

        Raises:
            InputError: the model here is another one than `fingerprint` says.
        """
        self._check(fingerprint)
        return list(self._model.generate(requests))

    def label_logprobs(
        self, fingerprint: Mapping[str, Any], contexts: Sequence[Context], labels: Sequence[str]
    ) -> list[Arrival]:
        """Return all replies.

        Raises:
            InputError: the model here is another one than `fingerprint` says, or gives no log-probabilities.
        """
        self._check(fingerprint)
        if not isinstance(self._model, LabelModel):
            raise InputError(f"on the node {platform.node()}, {self.spec} gives no log-probabilities of labels")
        return list(self._model.label_logprobs(contexts, labels))

    @cached_property
    def _model(self) -> Model:
        try:
            return load_here(*self.spec.split(":", 1))
        except PromptoptError as error:
            raise InputError(
                f"the node {platform.node()} cannot load {self.spec} ({error}): bring the model to every node under the "
                "same name, or choose nodes that have it by `resources`"
            ) from error

    def _check(self, fingerprint: Mapping[str, Any]) -> None:
        if dict(fingerprint) != self.fingerprint():
            raise InputError(_mixed(self.spec, {"others": fingerprint, platform.node(): self.fingerprint()}))


class Part(NamedTuple):
    """Some of a batch's requests.

    Args:
        numbers: of the requests in the batch.
        method: of `Replica`, and
        arguments: what it takes after the fingerprint.
    """

    numbers: Sequence[int]
    method: str
    arguments: tuple[Any, ...]


class Pool:
    """Actors on Ray.

    Args:
        spec: of the model.
        replicas: how many.
        resources: of each: "CPU", "GPU", or Ray's own names; None is a GPU each where there are enough, and an equal
            share of the processors.
        address: of a Ray cluster, "auto" for the one on this machine; None starts Ray here. Where the process is
            connected to a cluster already, that one is used.

    Raises:
        InputError: no cluster there, or no room in it for so many replicas.
    """

    def __init__(self, spec: str, replicas: int, resources: Mapping[str, float] | None, address: str | None) -> None:
        connect(address)
        self._spec = spec
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        each = share(nodes, replicas, resources)
        named = {name: amount for name, amount in each.items() if name not in {"CPU", "GPU"}}
        actor: Any = ray.remote(Replica).options(
            num_cpus=each["CPU"],
            num_gpus=each.get("GPU", 0),
            resources=named,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        self._replicas: list[Any] = [actor.remote(spec, max(int(each["CPU"]), 1)) for _ in range(replicas)]

    @cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides the replies of all replicas.

        Raises:
            InputError: a replica cannot start, or not all have the same model.
        """
        asked = [replica.fingerprint.options(max_task_retries=DEATHS).remote() for replica in self._replicas]
        try:
            found = [_get(_first([ref], patience=_PATIENCE)) for ref in asked]
        except _DIED as error:
            raise InputError(
                f"a replica of {self._spec} could not start ({_line(error)}): every node needs promptopt, the extras "
                "'scale' and 'local', and the versions of Python and Ray that are here"
            ) from error
        if any(other != found[0] for other in found):
            raise InputError(_mixed(self._spec, {f"replica {n}": each for n, each in enumerate(found)}))
        return dict(found[0])

    def run(self, parts: Sequence[Part]) -> Iterator[tuple[Part, list[Arrival] | Failure]]:
        """Yield each part as soon as it is done, with its replies, numbered within the part, or with why there are none.

        A part whose replica died is done again, by whichever is free; where three died, it is given up.

        Raises:
            FinalModelError: no replica is left, and Ray starts none anew.
            PromptoptError: what a replica raised.
        """
        waiting, deaths = deque(range(len(parts))), Counter[int]()
        # What each replica is at: a part's number, or None until it says that it is there, at first and after a death.
        at: dict[Any, tuple[Any, int | None]] = {_ready(replica): (replica, None) for replica in self._replicas}
        free: list[Any] = []
        while waiting or any(number is not None for _, number in at.values()):
            while waiting and free:
                replica, number = free.pop(0), waiting.popleft()
                part = parts[number]
                ref = getattr(replica, part.method).remote(self.fingerprint, *part.arguments)
                at[ref] = replica, number
            ref = _first(list(at), patience=None if free or any(n is not None for _, n in at.values()) else _PATIENCE)
            replica, done = at.pop(ref)
            try:
                found = _get(ref)
            except _DIED as error:
                _log.warning("a replica of %s died: %s", self._spec, _line(error))
                if done is None:
                    self._drop(replica, error)
                    continue
                at[_ready(replica)] = replica, None
                deaths[done] += 1
                if deaths[done] < DEATHS:
                    waiting.appendleft(done)
                else:
                    yield parts[done], _given_up(parts[done], error)
                continue
            free.append(replica)
            if done is not None:
                yield parts[done], found

    def _drop(self, replica: Any, error: Exception) -> None:
        """Do without a replica that Ray does not start again.

        Raises:
            FinalModelError: it was the last.
        """
        self._replicas = [other for other in self._replicas if other is not replica]
        if not self._replicas:
            raise FinalModelError(f"no replica of {self._spec} is left: {_line(error)}") from error


def connect(address: str | None) -> None:
    """Connect this process to a Ray cluster, or start Ray on this machine; nothing where it is connected.

    Raises:
        InputError: no cluster there.
    """
    if ray.is_initialized():
        return
    try:
        if address not in {None, "auto", "local"}:
            _reach(str(address))
        ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError) as error:
        raise InputError(
            f"there is no Ray cluster at {address!r} ({_line(error)}): start one by `ray start --head`, write its address as "
            "HOST:PORT, or name none to use this machine alone"
        ) from error


def _reach(address: str) -> None:
    """Raise OSError or ValueError where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=_REACHED).close()


def share(
    nodes: Sequence[Mapping[str, float]], replicas: int, wanted: Mapping[str, float] | None
) -> Mapping[str, float]:
    """Return what each replica takes: what is wanted, and where that says nothing of processors, as many as all can have.

    Args:
        nodes: what each node has.
        replicas: how many there are to be.
        wanted: by each; None: a GPU each where there are so many.

    Raises:
        InputError: there is no room for so many.
    """

    def room(each: Mapping[str, float]) -> float:
        taken = {name: amount for name, amount in each.items() if amount}
        if not taken:
            return replicas
        return sum(min(node.get(name, 0) // amount for name, amount in taken.items()) for node in nodes)

    if wanted is None:
        wanted = {"GPU": 1.0} if room({"GPU": 1, "CPU": 1}) >= replicas else {}
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    choices = [{"CPU": float(cores), **wanted} for cores in range(max(most, 1), 0, -1)]
    each = next((each for each in choices if room(each) >= replicas), choices[-1])
    if room(each) < replicas:
        has = "; ".join(str({name: node[name] for name in each if name in node}) for node in nodes)
        raise InputError(
            f"there is room for {room(each):.0f} of {replicas} replicas that take {each} each, on nodes with {has}: "
            "have fewer replicas, or give each less by `resources`"
        )
    return each


def _ready(replica: Any) -> Any:
    """Ask a replica whether it is there; where it is being restarted, the answer comes when it is."""
    return replica.ready.options(max_task_retries=-1).remote()


def _first(refs: list[Any], patience: float | None) -> Any:
    """Return the first that is answered; a line is logged where that takes longer than one has patience for."""
    done, _ = ray.wait(refs, num_returns=1, timeout=patience)
    if not done:
        _log.warning("no replica is there yet: waiting until Ray finds room for one")
        done, _ = ray.wait(refs, num_returns=1)
    return done[0]


def _get(ref: Any) -> Any:
    """Return an answer, or raise what the replica raised, as the replica raised it."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, PromptoptError):
            raise error.cause from None
        raise


def _given_up(part: Part, error: Exception) -> Failure:
    return Failure(
        f"{DEATHS} replicas died, one after the other, over the {len(part.numbers)} requests that this one was sent with; "
        f"the last: {_line(error)}"
    )


def _mixed(spec: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    said = "; ".join(f"{who}: {dict(each)}" for who, each in found.items())
    return (
        f"replicas of {spec} are not the same model ({said}): bring the same files to every node, and use nodes whose "
        "processors or GPUs take the same dtype"
    )


def _line(error: Exception) -> str:
    """Return what Ray says in one line."""
    return " ".join(str(error).split())[:300]
