"""Rules for the final choice, replayed on real rewards: `python -m benchmarks.choice` prints a table in some minutes, without a model.

`choice.npz` beside this file holds SmolLM2's label log-probabilities for the messages of `examples/helpdesk` under 30 demonstration sets
and none; `python -m benchmarks.choice --make FILE` makes it in half an hour. For each seed, the messages are split into 50 for the search, 50
for validation, and the rest for the test. `joint` searches the sets of the table: where it would make a new set, it gets another one of
the same size. All rules choose on the same searches. The race drops nobody here, and each reply costs its prompt's mean tokens.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import numpy as np

from promptopt import Demonstrations, Example, FunctionModel, Joint, Memo, Prompt, Response, Task, Usage, optimize
from promptopt.data.task_file import load_task
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.models.local import LocalModel
from promptopt.optimization.reserves import race_plan
from promptopt.optimization.selection import is_ahead
from promptopt.optimization.stages import SAFETY_FACTOR
from promptopt.search.run import Run
from promptopt.statistics.arrays import standard_error
from promptopt.statistics.label_bias import fit_label_bias, held_out_biases, right_answers
from promptopt.strategies import joint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from promptopt.models.base import Request
    from promptopt.statistics.arrays import Floats
    from promptopt.statistics.label_bias import Targets

TABLE = Path(__file__).with_name("choice.npz")
SETS, MOST_NEAREST = 32, 2  # sets drawn, and those of nearest demonstrations that are kept: they share no prefix
SPLIT = 50  # messages for the search, and for validation
SEARCH_SHARE = 0.8  # of the budget


@dataclass(frozen=True)
class Table:
    """What a model answers under P prompts on E messages.

    Args:
        logprobs: [P, E, L]; the first prompt shows nothing.
        targets: [E] numbers of the right labels.
        tokens: [P] mean tokens of a call.
        shots: [P] demonstrations, 0 where the nearest are shown.
        nearest: [P] how many nearest demonstrations.
    """

    logprobs: Floats
    targets: Targets
    tokens: Floats
    shots: Targets
    nearest: Targets

    @property
    def rewards(self) -> Floats:
        """[P, E], 1 or 0."""
        out: Floats = (self.logprobs.argmax(axis=2) == self.targets).astype(float)
        return out

    def right(self, prompt: int, messages: Targets, bias: Floats | float = 0.0) -> Floats:
        """Return for each message whether the answer is right with a label bias [L] or [E, L]."""
        return right_answers(self.logprobs[prompt, messages], self.targets[messages], bias)


class Found(NamedTuple):
    """What a search measured.

    Args:
        prompts: [C] their numbers in the table.
        rewards: [C, 50] on the messages for the search; NaN where not measured.
        search: [50] those messages.
        validation: [50] others, in the order of the race.
        test: the rest.
    """

    prompts: Targets
    rewards: Floats
    search: Targets
    validation: Targets
    test: Targets


class Chosen(NamedTuple):
    """A prompt of the table, and its label bias."""

    prompt: int
    bias: Floats | float = 0.0


def main() -> None:
    """Make the table, or replay searches on it and print what each rule brings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choice", description=__doc__.splitlines()[0])
    parser.add_argument("--make", type=Path, help="write a new table to this file instead")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--budgets", type=int, nargs="+", default=[75_000, 150_000], help="tokens")
    parser.add_argument("--seeds", type=int, default=100)
    given = parser.parse_args()
    if given.make:
        make_table(given.make)
        return
    table = Table(**np.load(given.table))
    print(
        f"{len(table.tokens) - 1} sets, {len(table.targets)} messages; the seed prompt has {table.rewards[0].mean():.3f}"
    )
    for budget in given.budgets:
        searches = [search(table, seed, budget) for seed in range(given.seeds)]
        print(f"\n| {budget:,} tokens | test reward minus the seed prompt's | minus the first rule |\n|---|---:|---:|")
        first: Floats | None = None
        for name, rule in RULES.items():
            gains = np.array([gain(table, found, rule(table, found, budget)) for found in searches])
            first = gains if first is None else first
            print(f"| {name} | {with_error(gains)} | {with_error(gains - first)} |", flush=True)


def gain(table: Table, found: Found, chosen: Chosen) -> float:
    """Return the test reward of a choice minus that of the seed prompt."""
    seed = table.right(0, found.test)
    return float((table.right(chosen.prompt, found.test, chosen.bias) - seed).mean())


def with_error(values: Floats) -> str:
    """Return a mean and its standard error."""
    return f"{values.mean():+.3f} ({standard_error(values[None])[0]:.3f})"


# Searches


def search(table: Table, seed: int, budget: float) -> Found:
    """Let `joint` search the sets of the table."""
    rng = np.random.default_rng([seed, 11])
    order = rng.permutation(len(table.targets))
    parts = order[:SPLIT], order[SPLIT : 2 * SPLIT], order[2 * SPLIT :]
    shuffled = 1 + rng.permutation(len(table.tokens) - 1)
    unused: dict[tuple[int, int], list[int]] = {}
    for number in shuffled.tolist():
        unused.setdefault((int(table.shots[number]), int(table.nearest[number])), []).append(number)

    def stream(_: Run) -> Iterator[Demonstrations]:
        while any(unused.values()):
            for kind in sorted(unused):
                if unused[kind]:
                    yield shown(table, unused[kind].pop())

    def changed(before: Demonstrations, *_: Any) -> Demonstrations:
        number = number_of(before)
        left = unused[int(table.shots[number]), int(table.nearest[number])]
        return shown(table, left.pop()) if left else before

    examples = tuple(Example({"input": f"message {e}"}, "yes", str(e)) for e in parts[0])
    task = Task(
        train=examples, seed_prompt=Prompt("Sort."), labels=("yes", "no"), logprobs=False, max_tokens=2, name="replay"
    )
    recorder, rewards = Recorder(instructions=1), table.rewards

    def answer(request: Request) -> Response:
        turns = [turn.content for turn in request.context if not isinstance(turn, str) and turn.role == "user"]
        prompt = int(turns[0].split()[1]) if len(turns) > 1 else 0
        right = rewards[prompt, int(turns[-1].split()[1])]
        return Response("yes" if right else "no", usage=Usage(int(table.tokens[prompt]) - 2, output=2))

    with tempfile.TemporaryDirectory() as folder, patch.multiple(joint, _stream=stream, _changed=changed):
        optimize(
            task,
            FunctionModel(answer, name="table", version="1"),
            recorder,
            budget=f"{int(budget * SEARCH_SHARE)} tokens",
            seed=seed,
            memo=folder,
            tracking=False,
        )
    return Found(*recorder.measured, *parts)


class Recorder(Joint):
    """`joint`, which keeps what it measured."""

    measured: tuple[Targets, Floats]

    def search(self, run: Run) -> None:
        """Search, and note the prompts' numbers and rewards, also when the budget ends it."""
        try:
            super().search(run)
        finally:
            prompts = list(run.archive)
            numbers = [0 if p.demonstrations is None else number_of(p.demonstrations) for p in prompts]
            measured = np.array(numbers), run.archive.task_rewards(prompts, run.task.train)
            object.__setattr__(self, "measured", measured)  # the dataclass is frozen


def shown(table: Table, number: int) -> Demonstrations:
    """Return demonstrations that name a set of the table, as many as it has."""
    nearest = int(table.nearest[number])
    size = SPLIT if nearest else int(table.shots[number])
    items = (Example({"input": f"set {number} {i}"}, ("yes", "no")[i % 2], f"{number}-{i}") for i in range(size))
    return Demonstrations(tuple(items), nearest=nearest or None)


def number_of(demonstrations: Demonstrations) -> int:
    """Return the set that demonstrations name."""
    return int(demonstrations.items[0].inputs["input"].split()[1])


# Rules


class Finalist(NamedTuple):
    """A prompt in the race on validation messages.

    Args:
        prompt: its number.
        together: mean reward on search and validation messages.
        validation: [V] its reward minus the seed prompt's.
        search: [50] the same on messages for the search; NaN where one of them was not measured.
    """

    prompt: int
    together: float
    validation: Floats
    search: Floats


def race(table: Table, found: Found, budget: float) -> list[Finalist]:
    """Run the best prompts of the search, best first, on as many validation messages as the budget covers."""
    counts, means = (~np.isnan(found.rewards)).sum(axis=1), np.nanmean(found.rewards, axis=1)
    spent = float(counts @ table.tokens[found.prompts])
    cells = (budget - spent) / (SAFETY_FACTOR * spent / counts.sum())
    well = np.where(2 * counts >= counts.max(), means, -1)
    rows = [row for row in np.argsort(-well, kind="stable").tolist() if found.prompts[row] and well[row] >= 0]
    plan = race_plan(cells, SPLIT, len(rows))
    messages, (start,) = found.validation[: plan.items], np.flatnonzero(found.prompts == 0)
    finalists = []
    for row in rows[: plan.listed]:
        prompt = int(found.prompts[row])
        right = table.right(prompt, messages)
        together = (np.nansum(found.rewards[row]) + right.sum()) / (counts[row] + len(messages))
        gains = right - table.right(0, messages), found.rewards[row] - found.rewards[start]
        finalists.append(Finalist(prompt, float(together), *gains))
    return finalists


def best(finalists: Sequence[Finalist], eligible: Callable[[Floats, Floats], bool]) -> int:
    """Return the best on both together among those that are eligible by their gains, else the seed prompt."""
    chosen = [finalist for finalist in finalists if eligible(finalist.validation, finalist.search)]
    return max(chosen, key=lambda finalist: finalist.together).prompt if chosen else 0


def by(eligible: Callable[[Floats, Floats], bool]) -> Callable[[Table, Found, float], Chosen]:
    """Return the rule that chooses by `best`."""
    return lambda table, found, budget: Chosen(best(race(table, found, budget), eligible))


def biased(others: Callable[[Sequence[Finalist]], Sequence[int]]) -> Callable[[Table, Found, float], Chosen]:
    """Return a rule: the run's choice, or one of it and `others` with a label bias, by right answers, each held out."""

    def rule(table: Table, found: Found, budget: float) -> Chosen:
        finalists = race(table, found, budget)
        messages = found.validation[: len(finalists[0].validation)]
        alone = best(finalists, is_ahead)
        seen = measured(found, alone)
        chosen = Chosen(alone)
        most = np.concatenate([table.right(alone, seen), table.right(alone, messages)]).mean()
        for prompt in dict.fromkeys([alone, *others(finalists)]):
            seen = measured(found, prompt)
            fitted_on = table.logprobs[prompt, seen], table.targets[seen]
            bias, own = fit_label_bias(*fitted_on), held_out_biases(*fitted_on)
            share = np.concatenate([table.right(prompt, seen, own), table.right(prompt, messages, bias)]).mean()
            if share > most:
                chosen, most = Chosen(prompt, bias), share
        return chosen

    return rule


def measured(found: Found, prompt: int) -> Targets:
    """Return the messages for the search to which there is a reply: a run scores its seed prompt on all."""
    (row,) = np.flatnonzero(found.prompts == prompt)
    return found.search[~np.isnan(found.rewards[row])] if prompt else found.search


def calibrated_seed(table: Table, found: Found, _: float) -> Chosen:
    """The seed prompt with a bias fitted on the messages of the search."""
    return Chosen(0, fit_label_bias(table.logprobs[0, found.search], table.targets[found.search]))


def best_of_six(table: Table, found: Found, _: float) -> Chosen:
    """The best on validation messages of the seed prompt and the five sets that the search saw first: no search."""
    candidates = found.prompts[:6].tolist()
    return Chosen(max(candidates, key=lambda prompt: float(table.right(prompt, found.validation).sum())))


RULES: dict[str, Callable[[Table, Found, float], Chosen]] = {
    "ahead on validation (before)": by(lambda validation, _: bool(validation.sum() > 0)),
    "ahead on both, at most a standard error behind on validation (today's choice)": by(is_ahead),
    "ahead on both": by(lambda validation, search: bool(validation.sum() + np.nansum(search) > 0)),
    "the best, whatever the seed prompt has": by(lambda *_: True),
    "the chosen prompt, with label bias where it pays (before)": biased(lambda _: ()),
    "that, or the seed prompt with bias": biased(lambda _: (0,)),
    "that, or any finalist with bias (today's predictor)": biased(
        lambda finalists: (*(f.prompt for f in finalists), 0)
    ),
    "the seed prompt with bias, no search": calibrated_seed,
    "best of the first six on validation, no search": best_of_six,
}


# The table


def make_table(file: Path) -> None:
    """Score the help desk's messages under sets of demonstrations."""
    task = load_task(Path(__file__).parent.parent / "examples" / "helpdesk" / "task.toml")
    examples = [*task.train, *task.validation, *task.test]
    examples = [examples[i] for i in np.random.default_rng(5).permutation(len(examples))]
    task = Task(
        train=tuple(examples[:SPLIT]),
        seed_prompt=task.seed_prompt,
        labels=task.labels,
        format=task.format,
        template=task.template,
        name=task.name,
    )
    rows: list[tuple[Floats, float, int, int]] = []
    with tempfile.TemporaryDirectory() as folder, Memo(folder) as memo:
        model = LocalModel("smollm2", dtype="float32")
        run = Run(task, np.random.default_rng(7), 0, Scorer(task, model, Caller(memo, Ledger())))
        drawn = [None, *islice(joint._stream(run), SETS - 1)]  # noqa: SLF001  the sets that the strategy draws
        dear = [one for one in drawn if one is not None and one.nearest is not None][MOST_NEAREST:]
        for demonstrations in (one for one in drawn if one not in dear):
            ledger = Ledger()
            prompt = Prompt(task.seed_prompt.text, demonstrations)
            scores = Scorer(task, model, Caller(memo, ledger)).score([prompt], examples)
            replies = (reply for (reply,) in scores.replies[0])
            rated = np.array([r.logprobs_of(task.labels) for r in replies if isinstance(r, Response)])
            each = sum(spent.tokens for spent in ledger.logical.values()) / len(examples)
            near = 0 if demonstrations is None else demonstrations.nearest or 0
            fixed = 0 if demonstrations is None or near else len(demonstrations.items)
            rows.append((rated, each, fixed, near))
            print(f"{fixed or near} shown{' nearest' if near else ''}: {scores.per_example.mean():.3f}", flush=True)
    logprobs, tokens, shots, nearest = (np.array(column) for column in zip(*rows, strict=True))
    targets = np.array([task.labels.index(example.target or "") for example in examples])
    np.savez_compressed(
        file, logprobs=logprobs.astype(np.float32), targets=targets, tokens=tokens, shots=shots, nearest=nearest
    )


if __name__ == "__main__":
    main()
