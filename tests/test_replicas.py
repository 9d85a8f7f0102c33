"""Replicas on real Ray: two nodes on this machine, real deaths, and what must come out all the same."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import replicated
from conftest import ROOT

from promptopt import (
    Failure,
    FakeLabelModel,
    FinalModelError,
    InputError,
    LabelModel,
    Memo,
    MissingExtraError,
    Request,
    Response,
    Result,
    TokenModel,
    load_model,
)
from promptopt.memo import memo_key
from promptopt.models.base import CaptionModel

pytest.importorskip("ray", reason="replicas need the extra 'scale'")
import ray
import replicas_child
from ray.cluster_utils import Cluster

from promptopt.models.replicas import RayModel
from promptopt.models.replicas.model import parts_of
from promptopt.models.replicas.pool import DEATHS, Pool, Replica, share

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence


SMALL = {"CPU": 0.05}  # so that the replicas of several tests have room
LABELS = ("great", "terrible")
CALM = FakeLabelModel(replicated.values)  # says what python:replicated:slow says
CONTEXTS = [f"prompt {p} {'of some length ' * 30} item {e}" for p in range(5) for e in range(30)]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replicas") / "log"


@pytest.fixture(scope="module")
def cluster(log: Path) -> Generator[Cluster]:
    """Two nodes of one processor each, whose deaths are soon noticed; this process is connected to them."""
    # What nodes and their workers inherit is the environment at their start.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPLICATED_LOG", str(log))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(ROOT)]))
        patch.setenv("HF_HUB_OFFLINE", "1")
        soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": soon}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(num_cpus=1)
            ray.init(address=cluster.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def lasting(cluster: Cluster) -> RayModel:
    """Two replicas, started anew as often as a test ends them; they leave others all processors."""
    return RayModel("python:replicated:slow", replicas=2, resources={"CPU": 0})


@pytest.fixture
def slow(lasting: RayModel, log: Path) -> RayModel:
    assert scored(lasting, CONTEXTS[:2]) == scored(CALM, CONTEXTS[:2])
    log.unlink()
    return lasting


def lines(log: Path) -> list[tuple[int, str]]:
    whole = log.read_text().rpartition("\n")[0] if log.exists() else ""  # a line may be half written
    return [(pid, text) for pid, text in map(json.loads, whole.splitlines())]


def scored(model: Any, contexts: Sequence[str]) -> list[Response | Failure]:
    """Return the replies in order, each of which came once."""
    arrivals = sorted(model.label_logprobs(contexts, LABELS), key=lambda arrival: arrival.number)
    assert [arrival.number for arrival in arrivals] == list(range(len(contexts)))
    return [arrival.reply for arrival in arrivals]


def while_it_goes(log: Path, calls: int, do: Callable[[int], None]) -> threading.Thread:
    """Do something to the process that logged the call of this number, as soon as it has."""

    def wait() -> None:
        while len(lines(log)) < calls:
            time.sleep(0.002)
        do(lines(log)[calls - 1][0])

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_replies_are_those_of_one_engine(cluster: Cluster, tiny_llama: Path) -> None:
    one, two = load_model(f"local:{tiny_llama}"), RayModel(f"local:{tiny_llama}", replicas=2, resources=SMALL)
    texts = [
        f"Review: the film {p} is {'a joy ' * p}\nItem {e} {'of a dull evening ' * 3}"
        for p in range(1, 9)
        for e in range(9)
    ]
    asked = [Request(context=text, max_tokens=4, temperature=1.0, replicate=n) for n, text in enumerate(texts[:16])]

    assert isinstance(one, LabelModel)
    assert isinstance(one, TokenModel)
    assert isinstance(two, LabelModel)
    assert isinstance(two, TokenModel)
    assert not isinstance(two, CaptionModel)
    assert two.fingerprint == one.fingerprint
    assert (two.unit, two.price) == (one.unit, one.price)
    assert two.pieces("a joy to read") == one.pieces("a joy to read")
    assert len(parts_of(texts, 2)) > 1
    for mine, other in zip(scored(two, texts), scored(one, texts), strict=True):
        assert not isinstance(mine, Failure)
        assert not isinstance(other, Failure)
        assert mine.label_logprobs == pytest.approx(other.label_logprobs, abs=0.02)
        assert mine.usage == other.usage
    assert len(list(two.generate(asked))) == len(asked)
    assert sorted(two.generate(asked)) == sorted(one.generate(asked))


def test_both_replicas_work_and_the_parts_do_not_depend_on_who_is_first(slow: RayModel, log: Path) -> None:
    replies = scored(slow, CONTEXTS)

    assert replies == scored(CALM, CONTEXTS)
    assert len({pid for pid, _ in lines(log)}) == 2
    assert sorted(text for _, text in lines(log)) == sorted(CONTEXTS)
    assert parts_of(CONTEXTS, 2) == parts_of(list(CONTEXTS), 2)


def test_a_killed_actor_is_replaced_and_its_part_alone_done_again(slow: RayModel, log: Path) -> None:
    thread = while_it_goes(log, 20, lambda pid: os.kill(pid, signal.SIGKILL))
    replies = scored(slow, CONTEXTS)
    thread.join()
    done = [text for _, text in lines(log)]
    twice = {text for text in done if done.count(text) > 1}

    assert replies == scored(CALM, CONTEXTS)
    assert twice
    assert any(twice <= {CONTEXTS[i] for i in part} for part in parts_of(CONTEXTS, 2))
    assert len({pid for pid, _ in lines(log)}) >= 2


def test_a_lost_node_loses_nothing(cluster: Cluster, log: Path) -> None:
    slow = RayModel("python:replicated:slow", replicas=2, resources=SMALL)  # one on each node
    assert slow.fingerprint
    log.unlink(missing_ok=True)
    nodes = {raylet(node): node for node in cluster.worker_nodes}
    (victim,) = nodes
    here = children(victim)
    thread = threading.Thread(target=lose, args=(log, here, victim))
    thread.start()
    replies = scored(slow, CONTEXTS)
    thread.join()
    cluster.remove_node(nodes[victim], allow_graceful=False)
    cluster.add_node(num_cpus=1)

    assert replies == scored(CALM, CONTEXTS)
    assert {pid for pid, _ in lines(log)} & set(here)
    assert scored(slow, CONTEXTS) == replies


def raylet(node: Any) -> int:
    (process,) = node.all_processes["raylet"]
    return int(process.process.pid)


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def lose(log: Path, workers: Sequence[int], victim: int) -> None:
    """Kill a node once one of its workers is at work."""
    while not {pid for pid, _ in lines(log)} & set(workers):
        time.sleep(0.002)
    os.kill(victim, signal.SIGKILL)


def test_a_part_that_kills_three_replicas_becomes_failures_with_the_reason(slow: RayModel, log: Path) -> None:
    contexts = [*CONTEXTS, CONTEXTS[-1] + " poison"]
    replies = scored(slow, contexts)
    (poisoned,) = (part for part in parts_of(contexts, 2) if len(CONTEXTS) in part)
    tried = [pid for pid, text in lines(log) if "poison" in text]

    assert len(tried) == len(set(tried)) == DEATHS == 3
    assert {i for i, reply in enumerate(replies) if isinstance(reply, Failure)} == set(poisoned)
    assert all(replies[i] == scored(CALM, [contexts[i]])[0] for i in set(range(150)) - set(poisoned))
    failure = replies[poisoned[0]]
    assert isinstance(failure, Failure)
    assert f"3 replicas died, one after the other, over the {len(poisoned)} requests" in failure.reason


@pytest.mark.parametrize(("word", "kind"), [("wrong", InputError), ("refused", FinalModelError)])
def test_what_a_replica_raises_on_purpose_is_raised_here(slow: RayModel, word: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"cannot read|no more of this") as caught:
        scored(slow, [*CONTEXTS, f"something {word}"])

    assert type(caught.value) is kind
    assert scored(slow, CONTEXTS[:3]) == scored(CALM, CONTEXTS[:3])


def test_a_model_that_a_node_does_not_have_is_named_with_the_node_and_the_mend(cluster: Cluster) -> None:
    with pytest.raises(InputError, match=r"the node .+ cannot load python:replicated:only_here .*on every node"):
        RayModel("python:replicated:only_here", replicas=2, resources=SMALL).fingerprint  # noqa: B018


def test_replicas_that_are_not_the_same_model_are_refused(cluster: Cluster) -> None:
    with pytest.raises(InputError, match=r"not the same model .*replica 0.*replica 1.*same files"):
        RayModel("python:replicated:mixed", replicas=2, resources=SMALL).fingerprint  # noqa: B018


def test_a_replica_that_comes_back_as_another_model_is_refused(cluster: Cluster) -> None:
    pool = Pool("python:replicated:slow", 1, SMALL, None)
    pool.__dict__["fingerprint"] = {"provider": "fake", "model": "what it was before"}
    (replica,) = pool._replicas

    with pytest.raises(ray.exceptions.RayTaskError, match="not the same model"):
        ray.get(replica.label_logprobs.remote(pool.fingerprint, CONTEXTS[:1], LABELS))


def test_a_replica_computes_with_the_processors_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "64")
    replica = Replica("python:replicated:telling", 3)

    ((_, reply),) = replica.generate(replica.fingerprint(), [Request(context="", max_tokens=1)])

    assert isinstance(reply, Response)
    assert reply.text == "3"


def test_more_replicas_than_there_is_room_for_are_refused(cluster: Cluster) -> None:
    with pytest.raises(InputError, match=r"only 2 of 3 replicas .*use fewer replicas"):
        RayModel("python:replicated:slow", replicas=3).fingerprint  # noqa: B018


def test_a_killed_driver_goes_on_where_it_was(cluster: Cluster, tmp_path: Path) -> None:
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
    killed = start(cluster, tmp_path / "killed")
    wait_for(killed, tmp_path / "killed", 3)
    killed.kill()
    killed.communicate()
    before = stored(tmp_path / "killed")
    asked = len(batches(tmp_path / "killed"))
    for name in ("calm", "killed"):
        replicas_child.main(*run_in(tmp_path / name, cluster))
    again = [key for batch in batches(tmp_path / "killed")[asked:] for key in batch if key in before]

    assert before
    assert not again
    assert Result.load(tmp_path / "killed" / "result.json") == Result.load(tmp_path / "calm" / "result.json")


def run_in(folder: Path, cluster: Cluster) -> tuple[str, str, str, str]:
    return "python:replicated:quick", str(folder), "0", cluster.address  # the replicas leave others all processors


def start(cluster: Cluster, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, replicas_child.__file__, *run_in(folder, cluster)], stderr=subprocess.PIPE)


def wait_for(process: subprocess.Popen[bytes], folder: Path, count: int) -> None:
    """Wait until the run has asked for so many batches."""
    while len(batches(folder)) < count:
        assert process.poll() is None  # the kill hits a living run
        time.sleep(0.002)


def batches(folder: Path) -> list[list[str]]:
    """Return the keys of each batch that a run asked its replicas for."""
    path = folder / "log"
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [
        [memo_key(fingerprint, "label_logprobs", {"context": context, "labels": labels}) for context in contexts]
        for fingerprint, contexts, labels in map(json.loads, whole.splitlines())
    ]


def stored(folder: Path) -> set[str]:
    with Memo(folder / "memo") as memo:
        return set(memo.get_many([key for batch in batches(folder) for key in batch]))


def test_the_command_line_scores_with_replicas_and_keeps_standard_output_for_json(
    cluster: Cluster, tmp_path: Path
) -> None:
    rows = "".join(f"the film {n},{'good' if n % 2 else 'bad'}\n" for n in range(20))
    (tmp_path / "items.csv").write_text(f"text,label\n{rows}")
    words = ["--data", "items.csv", "--input", "text", "--label", "label", "--labels", "good,bad", "--json"]
    words += ["--seed-prompt", "Judge: {text}", "--model", "python:replicated:quick", "--memo", "memo"]
    words += ["--replicas", "2", "--ray", cluster.address]
    command = [sys.executable, "-m", "promptopt", "score", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["failed"] == 0


# Without a cluster


def test_each_replica_gets_an_equal_share_of_what_there_is() -> None:
    cores, gpus = {"CPU": 16.0}, {"CPU": 16.0, "GPU": 4.0}

    assert share([cores], 2, None) == {"CPU": 8}
    assert share([cores, cores], 3, None) == {"CPU": 8}
    assert share([{"CPU": 1.0}, {"CPU": 1.0}], 2, None) == {"CPU": 1}
    assert share([gpus, gpus], 8, None) == {"CPU": 4, "GPU": 1}
    assert share([gpus], 5, None) == {"CPU": 3}
    assert share([gpus, cores], 2, {"GPU": 2}) == {"CPU": 8, "GPU": 2}
    assert share([cores], 64, {"CPU": 0.25}) == {"CPU": 0.25}
    assert share([cores], 64, {"CPU": 0}) == {"CPU": 0}


def test_replicas_of_what_computes_elsewhere_and_none_at_all_are_refused() -> None:
    with pytest.raises(InputError, match="cannot have replicas"):
        load_model("openai:gpt-4.1-mini", replicas=2)
    with pytest.raises(InputError, match="replicas must be 1 or more, not 0"):
        load_model("python:replicated:slow", replicas=0)
    with pytest.raises(InputError, match="needs replicas: set the number"):
        load_model("python:replicated:slow", ray_address="auto")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense"])
def test_an_address_where_no_cluster_is_is_named_with_the_mend(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests have connected this process
    with pytest.raises(InputError, match=rf"there is no Ray cluster at '{address}'.*ray start --head"):
        load_model("python:replicated:slow", replicas=2, ray_address=address).fingerprint  # noqa: B018


def test_a_machine_on_which_ray_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("the node timed out\nduring startup")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(
        InputError, match=r"Ray did not start on this machine \(.*timed out.*\): try again, or run without it"
    ):
        load_model("python:replicated:slow", replicas=2).fingerprint  # noqa: B018


def test_without_the_extra_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("promptopt.models.replicas")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(MissingExtraError, match=r"promptopt-toolkit\[scale\]"):
        load_model("python:replicated:slow", replicas=2)
