"""What replicas cost and survive: `python -m benchmarks.replicas cost` and `python -m benchmarks.replicas kill`.

`cost`: processor time, of all processes together, of two replicas with a core each beside one engine with both cores, on the
work of the benchmark of local scoring with four demonstrations a class. Both score the same texts in turns of one run, so
that a slow moment of the machine meets both; a turn has a parent prompt that no other has, and the first only warms up.
Medians over the turns. Processor time is what the kernel says of the processes that compute (this one, and the actors), so
that other work on the machine does not count as time. What Ray's own servers take meanwhile is printed beside it.

`kill`: SIGKILL of an actor, of a node and of the driver, at moments drawn by a seed, each several times: two replicas on two
nodes of this machine, a tiny model of random weights. What comes out is compared with what an undisturbed run gives.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from ray.cluster_utils import Cluster

from promptopt import Failure, Memo, Result
from promptopt.memo import memo_key
from promptopt.models.local import LocalModel
from promptopt.models.replicas import RayModel
from promptopt.models.replicas.model import parts_of
from promptopt.randomness import named_generator

from .local_scoring.work import Cell, distinct, make_work  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.models.base import LabelModel

_TICKS = os.sysconf("SC_CLK_TCK")
_CORES = 2
_PAUSE = 0.5  # seconds: about a batch further on
_REPLICA = "ray::Replica"  # what an actor calls its process
TESTS = Path(__file__).resolve().parent.parent / "tests"
VICTIMS = ("actor", "node", "driver")


class Turn(NamedTuple):
    """One way of a turn.

    Args:
        computing: processor seconds of the processes that compute.
        serving: of Ray's servers.
        seconds: by the clock.
        logprobs: [texts, labels].
    """

    computing: float
    serving: float
    seconds: float
    logprobs: np.ndarray[Any, np.dtype[np.float64]]


def processor_seconds() -> Mapping[int, tuple[str, float]]:
    """Return the name and the processor time, user's and system's, of this process and all under it."""
    found: dict[int, tuple[str, int, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended meanwhile
            continue
        name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        found[int(stat.parent.name)] = name, int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS
    ours = {os.getpid()}
    while more := {pid for pid, (_, parent, _) in found.items() if parent in ours and pid not in ours}:
        ours |= more
    return {pid: (found[pid][0], found[pid][2]) for pid in ours}


def taken(model: LabelModel, texts: Sequence[str], labels: Sequence[str]) -> Turn:
    """Score texts, and say what that took."""
    before, start = processor_seconds(), time.perf_counter()
    arrivals = sorted(model.label_logprobs(texts, labels), key=lambda arrival: arrival.number)
    seconds, after = time.perf_counter() - start, processor_seconds()
    spent = Counter[bool]()
    for pid, (name, used) in after.items():
        computes = pid == os.getpid() or name.startswith(_REPLICA)
        spent[computes] += used - before.get(pid, (name, 0.0))[1]  # type: ignore[assignment]
    rows = [() if isinstance(each.reply, Failure) else each.reply.label_logprobs or () for each in arrivals]
    return Turn(spent[True], spent[False], seconds, np.array(rows))


def measure_cost(given: argparse.Namespace) -> None:
    """Print processor seconds of both ways, and their ratio within each turn."""
    torch.set_num_threads(given.threads)
    one = LocalModel(given.model)
    two = RayModel(f"local:{given.model}", replicas=_CORES, resources={"CPU": 1})
    cell = Cell("sst-2", given.demonstrations, given.prompts, given.examples)
    tokenizer = one._files.tokenizer  # noqa: SLF001  the benchmark counts in the model's own tokens
    works = [make_work(cell, turn, given.data, tokenizer, one.pieces) for turn in range(given.turns + 1)]
    print(f"{Path(given.model).name}, {one.dtype}; {cell.prompts} prompts x {cell.examples} examples of SST-2,")
    print(
        f"{cell.demonstrations} demonstrations of each label; one engine with {given.threads} threads, {_CORES} replicas with one"
    )
    ways: dict[str, Any] = {"one": one, "two": two}
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    for number, work in enumerate(works):
        for name in ways if number % 2 else reversed(ways):
            turn = taken(ways[name], work.texts, work.labels)
            print(
                f"turn {number} {name}: {turn.computing:.1f} s computing, {turn.serving:.1f} s serving, {turn.seconds:.1f} s by the clock",
                file=sys.stderr,
            )
            if number:
                turns[name].append(turn)
    sequences = works[-1].sequences
    parts = parts_of(works[-1].texts, _CORES)
    whole, cut = distinct(sequences).tokens, [distinct([sequences[i] for i in part]).tokens for part in parts]
    print(
        f"the last turn: {len(parts)} parts of {min(cut):,} to {max(cut):,} distinct tokens, {sum(cut):,} in place of {whole:,} ({sum(cut) / whole - 1:+.1%})\n"
    )
    print("| | processor s | Ray's servers, s | clock s |\n|---|---|---|---|")
    for name, each in turns.items():
        print(
            f"| {name} | "
            + " | ".join(f"{statistics.median(row):.1f}" for row in list(zip(*each, strict=True))[:3])
            + " |"
        )
    pairs = list(zip(turns["two"], turns["one"], strict=True))
    for what, ratios in (
        ("computing", [two.computing / one.computing for two, one in pairs]),
        ("with Ray's servers", [(two.computing + two.serving) / (one.computing + one.serving) for two, one in pairs]),
    ):
        print(
            f"\nprocessor time of two replicas / one engine, {what}: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    apart = [float(np.abs(two.logprobs - one.logprobs).max()) for two, one in pairs]
    same = [float((two.logprobs.argmax(1) == one.logprobs.argmax(1)).mean()) for two, one in pairs]
    print(f"log-probabilities differ by at most {max(apart):.3g}; the likelier label is the same in {min(same):.2%}")


# Deaths


def measure_kills(given: argparse.Namespace) -> None:
    """Print, for each kind of victim, what came of so many kills."""
    sys.path.insert(0, str(TESTS))
    from tiny import build_llama  # noqa: PLC0415  tests come with a checkout only

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        model = build_llama(Path(folder) / "model")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            cluster.add_node(num_cpus=1)
            scene = Scene(cluster, given.spec or f"local:{model}", Path(folder))
            calm = scene.play("calm")
            finish(calm)
            print(
                f"undisturbed: {len(scene.batches('calm'))} batches of {sum(map(len, scene.batches('calm'))):,} calls"
            )
            for victim in given.victims:
                scene.disturb(victim, given.kills, named_generator(given.seed, f"kill {victim}"))
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]


class Scene(NamedTuple):
    """Where runs are disturbed.

    Args:
        cluster: two nodes.
        spec: of the model.
        folder: of all runs.
    """

    cluster: Cluster
    spec: str
    folder: Path

    def play(self, name: str) -> subprocess.Popen[bytes]:
        """Start a run, or go on with it."""
        (self.folder / name).mkdir(exist_ok=True)
        command = [
            sys.executable,
            TESTS / "replicas_child.py",
            self.spec,
            self.folder / name,
            "0.1",
            self.cluster.address,
        ]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: S603

    def disturb(self, victim: str, kills: int, rng: np.random.Generator) -> None:
        """Kill so many times, in as many runs as that takes, and print what came of it."""
        done, runs, repeated, unequal, lost = 0, 0, 0, 0, 0
        expected = Result.load(self.folder / "calm" / "result.json")
        while done < kills:
            runs += 1
            name = f"{victim} {runs}"
            process, said, before = self.play(name), b"", set[str]()
            while done < kills:
                seen = len(self.batches(name))
                self.wait(process, name, seen + 1)
                time.sleep(float(rng.uniform(0, _PAUSE)))
                if process.poll() is not None:
                    break
                before, seen = self.stored(name), len(self.batches(name))
                if not self.kill(victim, process, rng):
                    continue
                done += 1
                if victim == "driver":
                    said += process.communicate()[1]
                    process = self.play(name)
                self.wait(process, name, seen + 1)
                repeated += sum(key in before for batch in self.batches(name)[seen:] for key in batch)
            said += finish(process)
            unequal += Result.load(self.folder / name / "result.json") != expected
            lost += said.count(b" died: ")
        print(
            f"{victim}: killed {done} times in {runs} runs, of which {runs - unequal} end with the undisturbed result; "
            f"completed calls asked again: {repeated}; parts or replicas seen to die: {lost}",
            flush=True,
        )

    def kill(self, victim: str, driver: subprocess.Popen[bytes], rng: np.random.Generator) -> bool:
        """Kill a replica, the node that is not the head, or the driver; return whether there was one."""
        if victim == "driver":
            driver.kill()
        elif victim == "actor":
            alive = sorted(pid for pid, (name, _) in processor_seconds().items() if name.startswith(_REPLICA))
            if not alive:  # the last one's successors are being started
                return False
            os.kill(alive[int(rng.integers(len(alive)))], signal.SIGKILL)
        else:
            (node,) = self.cluster.worker_nodes
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            self.cluster.remove_node(node, allow_graceful=False)
            self.cluster.add_node(num_cpus=1)
        return True

    def wait(self, process: subprocess.Popen[bytes], name: str, count: int) -> None:
        """Wait until a run has asked for so many batches, or is over."""
        while len(self.batches(name)) < count and process.poll() is None:
            time.sleep(0.01)

    def batches(self, name: str) -> list[list[str]]:
        """Return the keys of each batch that a run asked its replicas for."""
        path = self.folder / name / "log"
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0] if path.exists() else ""
        return [
            [memo_key(fingerprint, "label_logprobs", {"context": context, "labels": labels}) for context in contexts]
            for fingerprint, contexts, labels in map(json.loads, whole.splitlines())
        ]

    def stored(self, name: str) -> set[str]:
        """Return the keys, of those that a run asked for, that its memo holds."""
        with Memo(self.folder / name / "memo") as memo:
            return set(memo.get_many([key for batch in self.batches(name) for key in batch]))


def finish(process: subprocess.Popen[bytes]) -> bytes:
    """Wait for the end of a run; return what it said."""
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(said.decode())
    return said


def main() -> None:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__)
    parser.add_argument("what", choices=("cost", "kill"))
    parser.add_argument("--model", default="smollm2", help="a known model, a GGUF file or a folder")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--demonstrations", type=int, default=4, help="of each label, in the parent prompt")
    parser.add_argument("--prompts", type=int, default=12, help="mutants of a parent")
    parser.add_argument("--examples", type=int, default=16, help="after each prompt")
    parser.add_argument("--turns", type=int, default=2, help="after one to warm up")
    parser.add_argument("--threads", type=int, default=_CORES, help="of the one engine; 1 where others use the machine")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS)
    parser.add_argument(
        "--spec", help="to be killed, in place of the tiny model: python:replicated:quick needs no torch"
    )
    parser.add_argument("--kills", type=int, default=10, help="of each victim")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    (measure_cost if given.what == "cost" else measure_kills)(given)


if __name__ == "__main__":
    main()
