"""Times the stages that a cell passes, each by itself, and whole batches."""

from __future__ import annotations

import gc
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from promptopt import Label, LabelMargin, Memo, Run, load_model
from promptopt.errors import InputError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.memo.memo import KeyMaker
from promptopt.randomness import named_generator
from promptopt.search.archive import Archive

from .work import ITEMS, LABELS, PROMPTS, Answering, prompts_of, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt import Model, Prompt, Response, Task

CELLS = PROMPTS * ITEMS
_SEQUENCES = 16_000  # of 260 tokens, that the engine makes one trie of


class Timed(NamedTuple):
    """Seconds that a piece of work took: of the processor, and on the wall."""

    processor: float
    wall: float


def timed(work: Callable[[], object]) -> Timed:
    """Do work, and time it."""
    gc.collect()
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Timed(time.process_time() - processor, time.perf_counter() - wall)


def run_of(task: Task, model: Model, memo: Memo) -> Run:
    """Return a run that asks a model, with an account of its own."""
    return Run(task, named_generator(0, "driver"), 0, Scorer(task, model, Caller(memo, Ledger())))


def stages(turns: int) -> dict[str, float]:
    """Return the processor's seconds a cell of each stage, medians over turns."""
    found: dict[str, list[float]] = {}
    task, model = task_of(), Answering()
    for turn in range(turns):
        with tempfile.TemporaryDirectory() as folder, Memo(folder) as memo:
            for name, taken in _turn(task, model, memo, prompts_of(turn)).items():
                found.setdefault(name, []).append(taken.processor / CELLS)
    return {name: median(values) for name, values in found.items()}


def _turn(task: Task, model: Answering, memo: Memo, prompts: Sequence[Prompt]) -> dict[str, Timed]:
    out: dict[str, Timed] = {}
    rows: dict[str, Any] = {}

    def stage(name: str, work: Callable[[], Any]) -> None:
        out[name] = timed(lambda: rows.update({name: work()}))

    scorer, make = Scorer(task, model, Caller(memo, Ledger())), KeyMaker(model.fingerprint, "label_logprobs")
    stage("render", lambda: [task.layout.render(prompt, item) for prompt in prompts for item in task.train])
    contexts = rows["render"]
    stage("key", lambda: [make({"context": context, "labels": list(LABELS)}) for context in contexts])
    keys = rows["key"]
    stage("look up, not there", lambda: scorer.caller.replies_in_memo(keys))
    stage("(the fake itself)", lambda: [arrival.reply for arrival in model.label_logprobs(contexts, LABELS)])
    replies: list[Response] = rows["(the fake itself)"]
    stage(
        "pack and store",
        lambda: memo.put_many({key: reply.to_json() for key, reply in zip(keys, replies, strict=True)}),
    )
    stage("look up, there", lambda: scorer.caller.replies_in_memo(keys))
    stage("account", lambda: _account(keys, replies))
    cells = [[[reply] for reply in replies[p * ITEMS : (p + 1) * ITEMS]] for p in range(len(prompts))]
    stage("reward by label", lambda: scorer.apply_reward(prompts, task.train, cells, Label(LABELS)))
    stage("reward by margin", lambda: scorer.apply_reward(prompts, task.train, cells, LabelMargin(LABELS)))
    stage("archive", lambda: _archive(task, prompts))
    return out


def _account(keys: Sequence[str], replies: Sequence[Response]) -> None:
    ledger = Ledger()
    ledger.admit("task", keys, estimate_from_mean=True)
    for key, reply in zip(keys, replies, strict=True):
        ledger.record("task", key, reply.usage, Answering.price, paid=True)
    ledger.release(keys)


def _archive(task: Task, prompts: Sequence[Prompt]) -> Archive:
    archive = Archive()
    archive.add(prompts, task.train, np.ones((len(prompts), len(task.train), 1)))
    return archive


def whole(model: Answering, turns: int, count: int = PROMPTS) -> dict[str, Timed]:
    """Return the seconds a cell of whole calls of `Run.score`: with an empty memo, and with all in it."""
    task, found = task_of(), {"nothing in the memo": list[Timed](), "all in the memo": list[Timed]()}
    with tempfile.TemporaryDirectory() as folder, Memo(folder) as memo:
        cold, warm = run_of(task, model, memo), run_of(task, model, memo)
        for turn in range(turns):
            prompts = prompts_of(turn, count)
            for taken, run in zip(found.values(), (cold, warm), strict=True):
                taken.append(timed(partial(run.score, prompts)))
    cells = count * ITEMS
    return {
        name: Timed(median(one.processor for one in taken) / cells, median(one.wall for one in taken) / cells)
        for name, taken in found.items()
    }


def tokens(turns: int) -> dict[str, float]:
    """Return the processor's seconds a cell of what a local engine does before its network; nothing where it is missing."""
    try:
        model: Any = load_model("local:smollm2")
    except InputError as error:
        print(f"left out: {error}\n")
        return {}
    from promptopt.models.local.encoding import Encoder  # noqa: PLC0415  torch, only where there is a model

    tokenizer = model._files.tokenizer  # noqa: SLF001  the encoder alone, no network
    whole_texts, by_starts = Encoder("whole", tokenizer), Encoder("starts", tokenizer)
    vars(whole_texts)["_has_seams"] = False
    found: dict[str, list[float]] = {}
    task = task_of()
    for turn in range(turns):
        contexts = [task.layout.render(prompt, item) for prompt in prompts_of(turn) for item in task.train]
        few = contexts[: 5 * ITEMS]
        queries = by_starts.queries(contexts, [LABELS] * len(contexts))
        works: dict[str, tuple[int, Callable[[], object]]] = {
            "tokenise, every text whole": (len(few), partial(whole_texts.queries, few, [LABELS] * len(few))),
            "tokenise, common starts once": (
                len(contexts),
                partial(by_starts.queries, contexts, [LABELS] * len(contexts)),
            ),
            "build the trie": (len(contexts), partial(_merge, [query.sequence for query in queries])),
        }
        for name, (cells, work) in works.items():
            found.setdefault(name, []).append(timed(work).processor / cells)
    return {name: median(values) for name, values in found.items()}


def _merge(sequences: Sequence[Sequence[int]]) -> None:
    """Build tries of as many sequences as the engine does at once."""
    from promptopt.models.local.trie import merge  # noqa: PLC0415  as above

    for start in range(0, len(sequences), _SEQUENCES):
        merge(sequences[start : start + _SEQUENCES])


def cutting(turns: int) -> dict[str, Timed]:
    """Return the seconds a cell of cutting a batch for 64 replicas; nothing where Ray is missing."""
    try:
        from promptopt.models.replicas.model import parts_of  # noqa: PLC0415  Ray, only where it is
    except InputError as error:
        print(f"left out: {error}\n")
        return {}
    task = task_of()
    contexts = [str(task.layout.render(prompt, item)) for prompt in prompts_of(0) for item in task.train]
    return {"cut for 64 replicas": _median([timed(partial(parts_of, contexts, 64)) for _ in range(turns)])}


def replicas(turns: int, count: int) -> dict[str, Timed]:
    """Return the seconds a cell of the driver with so many fake replicas on Ray."""
    from promptopt.models.replicas import RayModel  # noqa: PLC0415  as above

    model: Any = RayModel("python:benchmarks.driver.work:FAKE", replicas=count)
    with tempfile.TemporaryDirectory() as folder, Memo(folder) as memo:
        run = run_of(task_of(), model, memo)
        run.score(prompts_of(turns, 2))  # starts the replicas
        found = [timed(partial(run.score, prompts_of(turn))) for turn in range(turns)]
    return {f"{count} replicas on Ray, nothing in the memo": _median(found)}


def _median(found: Sequence[Timed]) -> Timed:
    """Return the medians for each cell of a whole batch."""
    return Timed(*(median(part) / CELLS for part in zip(*found, strict=True)))


def sustained(sequences: int, every: int) -> None:
    """Score so many sequences in one run, and print the rates on the way."""
    task = task_of()
    print(
        "| sequences | of these, a second | a second of the processor | memo, MB | memory of the process, MB |\n"
        "|---:|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory(dir=".") as folder, Memo(folder) as memo:
        run = run_of(task, Answering(), memo)
        taken: list[Timed] = []
        for turn in range(sequences // CELLS):
            prompts = prompts_of(turn)
            taken.append(timed(partial(run.score, prompts)))
            if (turn + 1) % (every // CELLS) == 0:
                size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
                wall, processor = (
                    len(taken) * CELLS / sum(part)
                    for part in ([one.wall for one in taken], [one.processor for one in taken])
                )
                print(
                    f"| {(turn + 1) * CELLS:,} | {wall:,.0f} | {processor:,.0f} | {size:,.0f} | {memory:,.0f} |",
                    flush=True,
                )
                taken = []
