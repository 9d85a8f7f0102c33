"""Programs: what their driver costs, and what the parts of the strategy `components` bring on a scripted program.

    python -m benchmarks.programs cost          # processor time of a score call, beside one prompt's
    python -m benchmarks.programs ablation      # the same search with round robin, with all prompts changed at once, and so on
    python -m benchmarks.programs rounds        # programs in step, beside sending each call as soon as it is known
    python -m benchmarks.programs helpdesk      # a program of two prompts on SmolLM2

Only the last needs a real model: a scripted one answers at once, and the rewards of the scripted programs and the reply times are simulated.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
import zlib
from heapq import heappop, heappush
from itertools import product, zip_longest
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from promptopt import Components, Example, FakeModel, Memo, Prompt, Prompts, Response, Task, load_task, optimize
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.randomness import named_generator
from promptopt.statistics.arrays import standard_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt import Ask, Program, Request, Run
    from promptopt.strategies.components import _Front

NAMES = ("plan", "query", "read", "check", "answer", "style")
NEEDED = {"query": "exact", "answer": "short"}  # words that help; the other prompts change nothing
ALL_IN_ONE = ("exact", "short", "blue", "kindly")  # words that help in the prompt "answer", each a fifth of the items
WORDS = ("slowly", "exact", "loud", "short", "blue", "kindly", "never", "twice", "now", "well", "alone", "again")


def text_of(request: Request) -> str:
    """Return what a request says."""
    return " ".join(turn if isinstance(turn, str) else turn.content for turn in request.context)


# Cost


def cost(examples: int, rounds: int) -> None:
    """Print the processor time of scoring programs of two prompts, and of scoring as many calls of one prompt."""

    async def two(ask: Ask, _: Prompts, example: Example) -> Response:
        first = await ask("first", example)
        return await ask("second", example, first=first.text)

    rows = tuple(Example({"text": f"item {i}"}, "yes", f"{i}") for i in range(2 * examples))
    program = Task(
        train=rows[:examples],
        program=two,
        seed_prompts={"first": Prompt("A {text}"), "second": Prompt("B {first} {text}")},
    )
    plain = Task(train=rows, seed_prompt=Prompt("A {text}"))
    times: dict[str, list[float]] = {"one prompt": [], "program": []}
    for number in range(rounds):
        for name, task in (("one prompt", plain), ("program", program)):
            with TemporaryDirectory() as folder, Memo(folder) as memo:
                scorer = Scorer(task, FakeModel(lambda _: "yes", f"{number}"), Caller(memo, Ledger()))
                began = time.process_time()
                scorer.score([task.seed_prompt], task.train)
                times[name].append(time.process_time() - began)
    calls = 2 * examples
    for name, seconds in times.items():
        print(f"{name}: {1e6 * median(seconds) / calls:.0f} microseconds a call ({calls} calls, median of {rounds})")
    ratio = median(b / a for a, b in zip(times["one prompt"], times["program"], strict=True))
    print(f"program / one prompt: {ratio:.2f}")
    with TemporaryDirectory() as folder, Memo(folder) as memo:
        scorer = Scorer(program, FakeModel(lambda _: "yes", "memory"), Caller(memo, Ledger()))
        tracemalloc.start()
        scorer.score([program.seed_prompt], program.train)
        print(f"memory: at most {tracemalloc.get_traced_memory()[1] / examples / 1024:.1f} KB a program in flight")
        tracemalloc.stop()


# Rounds

AT_ONCE, SLOW = 64, 0.01  # calls in flight; share of replies that take ten times as long


def reply_times(rng: np.random.Generator, programs: int, calls: int) -> Any:
    """Draw the time of each call [programs, calls]: lognormal, but for the slow ones."""
    slow = 1 + 9 * (rng.random((programs, calls)) < SLOW)
    return rng.lognormal(sigma=0.5, size=(programs, calls)) * slow


def time_to_end(times: Any) -> float:
    """Return when the last of the programs [programs, calls] ends if each call is sent as soon as it is known."""
    free = [0.0] * AT_ONCE
    waiting = [(0.0, program, 0) for program in range(len(times))]  # (known since, program, call)
    while waiting:
        known, program, call = heappop(waiting)
        end = max(heappop(free), known) + times[program, call]
        heappush(free, end)
        if call + 1 < times.shape[1]:
            heappush(waiting, (end, program, call + 1))
    return max(free)


def rounds_in_step(draws: int = 50) -> None:
    """Print how much longer programs take in step than if each call were sent as soon as it is known."""
    rng = named_generator(0, "reply times")
    print("| programs | calls of each | time in step / each call at once |\n|---:|---:|---:|")
    for calls, programs in product((2, 6), (24, 100, 500)):
        ratios = []
        for _ in range(draws):
            times = reply_times(rng, programs, calls)
            in_step = sum(time_to_end(times[:, [call]]) for call in range(calls))
            ratios.append(in_step / time_to_end(times))
        print(f"| {programs} | {calls} | {median(ratios):.2f} |")


# Ablation


async def two_matter(ask: Ask, _: Prompts, example: Example) -> str:
    """Ask all prompts in turn; an answer is right where those that matter to it have their words."""
    said = [(await ask(name, example)).text for name in NAMES]
    has = [word in text for text, word in ((said[NAMES.index(name)], word) for name, word in NEEDED.items())]
    kind = int(example.id) % 4
    right = (True, has[0], has[1], all(has))[kind]
    return example.target or "" if right else "wrong"


async def one_matters(ask: Ask, _: Prompts, example: Example) -> str:
    """Ask all prompts in turn; only one of them matters, and can be improved four times."""
    said = [(await ask(name, example)).text for name in NAMES]
    kind = int(example.id) % (len(ALL_IN_ONE) + 1)
    right = not kind or ALL_IN_ONE[kind - 1] in said[NAMES.index("answer")]
    return example.target or "" if right else "wrong"


PROGRAMS: dict[str, Program] = {
    "two of six prompts matter, one word each": two_matter,
    "one of six prompts matters, four words": one_matters,
}


def scripted_task(program: Program) -> Task:
    """Return the task of a scripted program."""
    rows = tuple(Example({"text": f"item {i}"}, f"{i}", f"{i}") for i in range(72))
    return Task(
        train=rows[:24],
        validation=rows[24:48],
        test=rows[48:],
        program=program,
        seed_prompts={name: Prompt(f"{name} {{text}}") for name in NAMES},
    )


def write(request: Request) -> str:
    """Propose the first prompt shown with one more word, three times; message and sample decide which."""
    text = text_of(request)
    if "<prompt>" not in text:
        return "ready"
    shown = text.split("<prompt>")[1].split("</prompt>")[0]
    start = zlib.crc32(f"{request.replicate} {text}".encode())
    return "".join(f"<prompt>{WORDS[(start + i) % len(WORDS)]} {shown}</prompt>" for i in range(3))


class RoundRobin(Components):
    """Each prompt in turn."""

    @staticmethod
    def _component(run: Run, paid: dict[str, Any]) -> str:  # noqa: ARG004
        rounds = int(sum(counts.sum() - 2 for counts in paid.values()))
        return list(paid)[rounds % len(paid)]


class AllAtOnce(Components):
    """A change of every prompt in each candidate."""

    def _children(self, run: Run, front: _Front, parent: Prompts, name: str) -> list[Prompts]:  # noqa: ARG002
        changed = [super(AllAtOnce, self)._children(run, front, parent, other) for other in NAMES]
        out = []
        for several in zip_longest(*changed):
            child = parent
            for other, one in zip(NAMES, several, strict=True):
                child = child.replaced(other, one[other]) if one else child
            out.append(child)
        return [child for child in dict.fromkeys(out) if child not in run.archive]


class WithoutMerge(Components):
    """Without merges."""

    def _merge(self, run: Run, former: Prompts) -> None:
        """Try nothing."""


VARIANTS: dict[str, type[Components]] = {
    "components": Components,
    "round robin": RoundRobin,
    "all prompts at once": AllAtOnce,
    "without merges": WithoutMerge,
}


def ablation(budgets: Sequence[int], seeds: int) -> None:
    """Print the mean test reward of each variant, and how many runs found the best prompts."""
    model, writer = FakeModel(text_of, "scripted"), FakeModel(write, "writer")
    with TemporaryDirectory() as folder, Memo(folder) as memo:
        for (title, program), budget in product(PROGRAMS.items(), budgets):
            task = scripted_task(program)
            print(
                f"\n| {title}, {budget:,} calls | test reward | minus components | best found |\n|---|---:|---:|---:|"
            )
            first: Any = None
            for name, variant in VARIANTS.items():
                rewards = []
                for seed in range(seeds):
                    strategy = variant(sets=0, patience=60)
                    result = optimize(
                        task,
                        model,
                        strategy,
                        writer=writer,
                        budget=f"{budget} calls",
                        seed=seed,
                        memo=memo,
                        tracking=False,
                    )
                    scorer = Scorer(task, model, Caller(memo, Ledger()))
                    rewards.append(float(scorer.score([result.prompt], task.test).mean[0]))
                values = np.array(rewards)
                first = values if first is None else first
                print(
                    f"| {name} | {_shown(values)} | {_shown(values - first, '+')} | {int((values == 1).sum())} of {seeds} |"
                )


# A real model


async def summary_and_label(ask: Ask, _: Prompts, example: Example) -> Response:
    """Sum a message up, then say what it is about."""
    about = await ask("summary", example)
    return await ask("label", example, summary=about.text)


def helpdesk(memo: Path | None, budget: int) -> None:
    """Search both prompts on messages to a help desk, and run the search again from the memo."""
    whole = load_task(Path(__file__).parent.parent / "examples" / "helpdesk")
    question = f"Which of these is it about: {', '.join(whole.labels)}? Answer with one word."
    task = Task(
        train=whole.train[:16],
        validation=whole.validation[:16],
        test=whole.test[:40],
        labels=whole.labels,
        program=summary_and_label,
        max_tokens=12,
        name="helpdesk program",
        seed_prompts={
            "summary": Prompt("Say in three words what the message is about."),
            "label": Prompt(f"{{summary}}\n{{text}}\n{question}"),
        },
    )
    with TemporaryDirectory() as folder, Memo(memo or folder) as store:
        first, again = (
            optimize(
                task,
                "local:smollm2",
                Components(instructions=0, patience=3),
                budget=f"{budget} calls",
                memo=store,
                tracking=False,
            )
            for _ in range(2)
        )
    print(first)
    print(f"\nagain, from the memo: equal {first == again}, calls {sum(spent.calls for spent in again.paid.values())}")


def _shown(values: Any, sign: str = "") -> str:
    return f"{values.mean():{sign}.3f} ({standard_error(values[None])[0]:.3f})"


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.programs", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["cost", "ablation", "rounds", "helpdesk"])
    parser.add_argument("--examples", type=int, default=1_000, help="programs in flight")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budgets", type=int, nargs="+", default=[2_000])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--memo", type=Path, help="folder of the replies; by default they are not kept")
    given = parser.parse_args()
    if given.what == "cost":
        cost(given.examples, given.rounds)
    elif given.what == "rounds":
        rounds_in_step()
    elif given.what == "helpdesk":
        helpdesk(given.memo, budget=900)
    else:
        ablation(given.budgets, given.seeds)


if __name__ == "__main__":
    main()
