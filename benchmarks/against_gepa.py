"""Hill climbing beside GEPA on scripted tasks: `python -m benchmarks.against_gepa --gepa-python PATH` prints tables.

PATH is a Python that has gepa; without it, our side alone is run. Both sides get the same items, reward, reward's words,
task model and writer, through the loopback server, which counts the calls of each: `servers.landscape` says by what rule
the writer proposes. Ours is shown scores, GEPA's is not; so ours meets a writer that learns from scores, and one that
does not. Each run has a memo of its own. What a prompt is truly worth is read off the hidden map.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from servers.landscape import TopicWords, World, judged, target_of
from servers.loopback import Loopback

from promptopt import Example, HillClimb, InputError, Prompt, Task, optimize
from promptopt.models.base import Price
from promptopt.models.hosted.openai import OpenAIModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from servers.loopback import Seen

    from promptopt import Response, Strategy

LANDSCAPES = {
    "few words (8 help, 8 harm, 8 idle)": TopicWords(2, 2, 2),
    "many harmful (8 help, 24 harm, 8 idle)": TopicWords(2, 6, 2),
}
TRAIN = [f"item{n}" for n in range(24)]  # half and half, as GEPA's guide says of small data
VALIDATION = [f"item{n}" for n in range(100, 124)]
SLOT = " {text}"


class Outcome(NamedTuple):
    """What a run came to.

    Args:
        prompt: the returned one, without the item's slot.
        calls: by role, as the server counted them.
        rises: times that a new prompt became the best, by the side's own scores.
        accepted: prompts that passed the side's gate.
    """

    prompt: str
    calls: Counter[str]
    rises: int
    accepted: int


class Absent(NamedTuple):
    """A side that cannot run.

    Args:
        reason: why.
    """

    reason: str


def reward(example: Example, response: Response) -> tuple[float, str]:
    """Return the reward and its words."""
    return judged(example.inputs["text"], response.text)


def task(words: TopicWords) -> Task:
    """Return the task as ours sees it."""
    train, validation = (
        tuple(Example({"text": item}, target_of(item), item) for item in items) for items in (TRAIN, VALIDATION)
    )
    return Task(train=train, validation=validation, seed_prompt=Prompt(words.seed_prompt + SLOT), reward=reward)


def ours(world: World, budget: int, strategy: Strategy) -> Outcome:
    """Run our side: search, and choice by validation items, within the budget."""
    with Loopback(world.answer, waits=False) as server, tempfile.TemporaryDirectory() as memo:
        model, writer = (
            OpenAIModel(role, base_url=f"{server.url}/v1", api_key="none", price=Price(0, 0))
            for role in ("task", "writer")
        )
        result = optimize(
            task(world.words), model, strategy, writer=writer, seed=world.seed, budget=f"{budget} calls", memo=memo
        )
        rises = sum(step["improved"] for step in result.steps)
        return Outcome(result.prompt.text.removesuffix(SLOT), by_role(server.requests), rises, rises)


def absent(python: str) -> Absent | None:
    """Return why GEPA cannot run, or None."""
    if not python:
        return Absent("no --gepa-python names a Python that has gepa")
    try:
        tried = subprocess.run([python, "-c", "import gepa"], capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        return Absent(f"{python} does not run: {error}")
    return Absent(f"{python} has no gepa: pip install gepa there") if tried.returncode else None


def gepas(python: str, world: World, budget: int) -> tuple[Outcome, Outcome, str]:
    """Run GEPA until it has made as many calls, task's and writer's; it looks between iterations, and oversteps by one.

    Returns:
        What it came to, what it had come to at half of the calls, and its version.
    """
    with Loopback(world.answer, waits=False) as server:
        case = {
            "url": f"{server.url}/v1/chat/completions",
            "train": TRAIN,
            "validation": VALIDATION,
            "prompt": world.words.seed_prompt,
            "budget": budget,
            "seed": world.seed,
        }
        script = str(Path(__file__).with_name("gepa_side.py"))
        done = subprocess.run([python, script], input=json.dumps(case), capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise SystemExit(f"GEPA's side failed:\n{done.stderr}")
        out: dict[str, Any] = json.loads(done.stdout)
        calls, first = by_role(server.requests), by_role(server.requests[: budget // 2])
    if calls.total() != out["calls"]:
        raise SystemExit(f"the server counted {calls.total()} calls, GEPA's side {out['calls']}")
    best = [prompt for at, prompt in out["best"] if at <= first.total()]
    accepted = sum(at <= first.total() for at in out["accepted"])
    return (
        Outcome(out["prompt"], calls, len(out["best"]) - 1, len(out["accepted"])),  # the seed prompt is no rise
        Outcome(best[-1], first, len(best) - 1, accepted),
        out["version"],
    )


def by_role(requests: Sequence[Seen]) -> Counter[str]:
    """Return the calls that the server answered, by the name of the model asked."""
    return Counter(str(seen.body["model"]) for seen in requests if seen.answered)


def row(name: str, words: TopicWords, outcomes: Sequence[Outcome], rivals: Sequence[Outcome]) -> str:
    """Return a row of the table, over seeds; against rivals, how many seeds reach them."""
    true, theirs = ([words.competence(outcome.prompt) for outcome in side] for side in (outcomes, rivals))
    calls = sum(outcome.calls.total() for outcome in outcomes)
    gaps = [round(a - b, 9) for a, b in zip(true, theirs, strict=False)]
    cells = [
        name,
        f"{calls / len(outcomes):.0f}",
        f"{sum(outcome.calls['writer'] for outcome in outcomes) / len(outcomes):.0f}",
        f"{calls / max(sum(outcome.accepted for outcome in outcomes), 1):.0f}",
        f"{calls / max(sum(outcome.rises for outcome in outcomes), 1):.0f}",
        f"{median(true):.2f}",
        f"{mean(true):.3f}",
        f"{stdev(true) / len(true) ** 0.5:.3f}" if len(true) > 1 else "",
        f"{sum(gap > 0 for gap in gaps)} more, {gaps.count(0)} as much; {mean(gaps):+.3f}" if rivals else "",
    ]
    return f"| {' | '.join(cells)} |"


def rows(words: TopicWords, seeds: range, budget: int, python: str) -> Iterator[str]:
    """Yield the rows of one landscape: GEPA at the budget and at half of it, ours at half of it and at all."""
    half, rivals = budget // 2, list[Outcome]()
    if python:
        found = [gepas(python, World(words, seed), budget) for seed in seeds]
        rivals = [whole for whole, _, _ in found]
        yield row(f"GEPA {found[0][2]}, {budget} calls", words, rivals, [])
        yield row(f"GEPA, its first {half} calls", words, [first for _, first, _ in found], [])
    for calls, scores in ((half, True), (half, False), (budget, True)):
        results = [ours(World(words, seed, scores), calls, HillClimb(restarts=100)) for seed in seeds]
        blind = "" if scores else ", writer blind to scores"
        yield row(f"hillclimb, budget {calls} calls{blind}", words, results, rivals)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_gepa", description=main.__doc__)
    parser.add_argument("--gepa-python", default="", metavar="PATH", help="a Python that has gepa")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--budget", type=int, default=1200, help="GEPA's, in calls of both models; ours gets half")
    given = parser.parse_args()
    if given.seeds < 1:
        raise InputError(f"--seeds must be at least 1, not {given.seeds}")
    why = absent(given.gepa_python)
    if why is not None:
        print(f"GEPA is skipped: {why.reason}\n")
    for name, words in LANDSCAPES.items():
        print(f"{name}; seed prompt {words.competence(words.seed_prompt):.2f}\n")
        print("| | calls | of writer | per accepted | per new best | median | mean | error | beside GEPA's final |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---|")
        for line in rows(
            words,
            range(given.first, given.first + given.seeds),
            given.budget,
            "" if why is not None else given.gepa_python,
        ):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
