"""PROMST on scripted players, against searches that learn nothing: `python -m benchmarks.promst`.

Simulated: no language model takes part. What a player can do hangs on words of its prompt (`tests/players.py`), of which
no strategy knows; one and the same scripted writer serves all strategies, and heeds the kinds of error where its message names any. Every number but the calls is the true competence of a prompt, its mean score on 100 instances that no search saw,
not what the search measured.

Every cell is a run of promptopt; cells that are done are read from `--out`, so that the benchmark may be stopped and
started again. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

import numpy as np

from promptopt import HillClimb, RandomSearch, optimize
from promptopt.environments import WORLDS, instances, task
from promptopt.strategies import Promst

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import players

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from promptopt import Prompt, Run, Strategy, Task

Facts: TypeAlias = dict[str, float]

TRAIN = 16
FRESH = 100  # instances behind a true competence
FRESH_SEED = 1_000_003  # of their draw; no search has it
EPISODES = 200  # as long as instances allow, that a budget pays for
LONGER = 4  # times the budget, for a search that is measured until it has found the best
SKILLS = (players.FORMAT, players.CARE, players.PLAN)


class Method(NamedTuple):
    """What is run in one column of the first table."""

    strategy: Strategy
    silent: bool = False
    writer: str = "heeding"


BLIND = HillClimb(control="paraphrase", restarts=1, iterations=10_000, patience=0)
METHODS = {
    "random": Method(RandomSearch(prompts=10_000)),
    "paraphrase": Method(BLIND),
    "promst": Method(Promst()),
    "without rules": Method(Promst(), silent=True),
    "adversarial": Method(Promst(), writer="adversarial"),
}
LASTING = Promst(patience=10_000)
SAVERS = {
    "all measured": replace(LASTING, racing=False, forecast="off"),
    "racing": replace(LASTING, forecast="off"),
    "forecast": replace(LASTING, racing=False),
    "both": LASTING,
}


class Place(NamedTuple):
    """Which number of which table."""

    world: str
    seed: int
    what: str


class FoundError(Exception):
    """Ends a search that has found the best."""


@dataclass
class Watched:
    """A strategy whose best prompt, by its own scores on all training instances, is noted whenever it changes.

    Args:
        strategy: that searches.
        until: whether the search ends as soon as its best prompt has every skill.
        path: calls of the task model so far, and the best prompt from there on.
        found: whether the search ended so.
    """

    strategy: Strategy
    until: bool = False
    path: list[tuple[int, Prompt]] = field(default_factory=list)
    found: bool = False

    writes: ClassVar[bool] = True

    def search(self, run: Run) -> None:
        """Search, and look at the history after every step."""

        def look(run: Run) -> None:
            whole = [c for c in run.archive.values() if c.cells == len(run.task.train)]
            best = max(whole, key=lambda c: c.fitness, default=None)
            if best is None or (self.path and self.path[-1][1] == best.prompt):
                return
            self.path.append((run.ledger.logical["task"].calls, best.prompt))
            if self.until and skills(best.prompt) == len(SKILLS):
                self.found = True
                raise FoundError

        with suppress(FoundError):
            self.strategy.search(replace(run, watch=look))

    def along(self, world: str, budget: int) -> float:
        """Return the mean competence of the best prompt so far, over all calls of a budget."""
        ends = [calls for calls, _ in self.path[1:]] + [budget]
        begins = [0, *ends[:-1]]
        levels = [competence(world, canonical(prompt.text)) for _, prompt in self.path]
        return sum(level * (e - b) for level, b, e in zip(levels, begins, ends, strict=True)) / budget


def skills(prompt: Prompt) -> int:
    """Return how many skills a prompt teaches; what is read carelessly counts as none."""
    return sum(skill.word in prompt.text for skill in SKILLS) if len(prompt.text) <= players.LONG else 0


@cache
def fresh(world: str) -> tuple[list[dict[str, object]], int]:
    """Return the instances behind a true competence, and the calls that a budget pays for."""
    drawn = instances(world, FRESH, seed=FRESH_SEED)
    return drawn, EPISODES * int(drawn[0]["cap"])


@cache
def competence(world: str, text: str) -> float:
    """Return the mean score of a prompt on fresh instances."""
    return players.competence(WORLDS[world].environment, text, fresh(world)[0])


def canonical(text: str) -> str:
    """Return the skills of a text alone, where its length makes no difference: all such texts do equally well."""
    return " ".join(skill.word for skill in SKILLS if skill.word in text) if len(text) <= players.LONG else text


def playable(place: Place, *, silent: bool = False) -> Task:
    """Return a task on instances of this seed; the search's own scores choose, so that all calls are the search's."""
    drawn = task(place.world, train=TRAIN, validation=0, test=0, seed=place.seed)
    return players.playable(drawn, silent=silent)


def run(place: Place, task: Task, strategy: Strategy, budget: int, writer: str = "heeding") -> tuple[Prompt, Facts]:
    """Run a strategy on an empty memo; return its prompt and what it took."""
    with tempfile.TemporaryDirectory() as memo:
        result = optimize(
            task,
            players.player(WORLDS[place.world].environment),
            strategy,
            writer=players.writer(writer),
            budget=f"{budget} calls",
            seed=place.seed,
            memo=memo,
            tracking=False,
        )
    if not result.finished:
        raise RuntimeError(result.headline)
    used = {role: result.used[role].calls for role in ("task", "writer")}
    return result.prompt, {"task": used["task"], "writer": used["writer"], "prompts": len(result.history)}


def measured(place: Place) -> Facts:
    """Return one cell of the first table, or of the second."""
    budget = fresh(place.world)[1]
    if place.what in METHODS:
        method = METHODS[place.what]
        watched = Watched(method.strategy)
        found, facts = run(place, playable(place, silent=method.silent), watched, budget, method.writer)
        start = playable(place).seed_prompt
        return {
            "seed prompt": competence(place.world, canonical(start.text)),
            "competence": competence(place.world, canonical(found.text)),
            "along": watched.along(place.world, budget),
            "skills": skills(found),
            **facts,
        }
    watched = Watched(SAVERS[place.what], until=True)
    _, facts = run(place, playable(place), watched, LONGER * budget)
    return {"found": float(watched.found), "calls": watched.path[-1][0] if watched.found else facts["task"]}


def table(worlds: Sequence[str], cells: dict[Place, Facts], fact: str) -> Iterable[str]:
    """Yield the rows of the first table: means over the seeds of one fact, and how often PROMST is better, or as good."""
    heads = ["environment", "calls", "seed prompt", *METHODS, "all skills"]
    rivals = ("random", "paraphrase", "without rules")
    heads += [f"{'better (as good) than ' if r == 'random' else ''}{r}" for r in rivals] + [
        "adversarial below seed prompt"
    ]
    yield from (f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}")
    for world in worlds:
        of = {m: {p.seed: f for p, f in cells.items() if (p.world, p.what) == (world, m)} for m in METHODS}
        both = sorted(set.intersection(*(set(rows) for rows in of.values())))
        if not both:
            continue
        row = [world, f"{fresh(world)[1]:,}", f"{of['promst'][both[0]]['seed prompt']:.3f}"]
        row += [f"{np.mean([of[m][s][fact] for s in both]):.3f}" for m in METHODS]
        row.append(f"{competence(world, canonical(' '.join(skill.word for skill in SKILLS))):.3f}")
        for rival in rivals:
            gains = [of["promst"][s][fact] - of[rival][s][fact] for s in both]
            row.append(f"{sum(g > 0 for g in gains)} ({sum(g == 0 for g in gains)}) of {len(both)}")
        below = sum(of["adversarial"][s]["competence"] < of["adversarial"][s]["seed prompt"] for s in both)
        yield f"| {' | '.join([*row, f'{below} of {len(both)}'])} |"


def savings(worlds: Sequence[str], cells: dict[Place, Facts]) -> Iterable[str]:
    """Yield the rows of the last table: how often the best was found, after how many calls, and what is saved in all."""
    names = [name for name in SAVERS if any(place.what == name for place in cells)]
    heads = ["environment", *names, *(f"saved by {name}" for name in names[1:])]
    yield from (f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}")
    for world in worlds:
        of = {n: {p.seed: f for p, f in cells.items() if (p.world, p.what) == (world, n)} for n in names}
        seeds = sorted(set.intersection(*(set(rows) for rows in of.values()))) if of else []
        if not seeds:
            continue
        means = [float(np.mean([of[name][s]["calls"] for s in seeds])) for name in names]
        found = [sum(of[name][s]["found"] for s in seeds) for name in names]
        row = [world, *(f"{many:.0f} of {len(seeds)}, {mean:,.0f}" for many, mean in zip(found, means, strict=True))]
        yield f"| {' | '.join([*row, *(f'{1 - mean / means[0]:.0%}' for mean in means[1:])])} |"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", nargs="+", default=list(WORLDS), choices=list(WORLDS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--what", nargs="+", default=[*METHODS, *SAVERS], choices=[*METHODS, *SAVERS], metavar="METHOD")
    parser.add_argument("--out", type=Path, default=Path("runs/promst.jsonl"), help="cells that are done, a line each")
    given = parser.parse_args()
    cells: dict[Place, Facts] = {}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.touch()
    for line in given.out.read_text(encoding="utf-8").splitlines():
        cell = json.loads(line)
        cells[Place(*cell["place"])] = cell["facts"]
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for place in (Place(world, seed, what) for world in given.environments for what in given.what):
            if place not in cells:
                cells[place] = measured(place)
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"place": place, "facts": cells[place]}) + "\n")
    print("Of the prompt chosen at the end:", "", *table(given.environments, cells, "competence"), sep="\n")
    print("\nOf the best prompt so far, mean over all calls:", "", *table(given.environments, cells, "along"), sep="\n")
    print("\nCalls until the best prompt has all skills:", "", *savings(given.environments, cells), sep="\n")


if __name__ == "__main__":
    main()
