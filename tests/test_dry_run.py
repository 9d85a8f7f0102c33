"""The dry run against runs with models that are not the simulated ones."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import toys

from promptopt import (
    Example,
    FakeLabelModel,
    FakeModel,
    InputError,
    Judge,
    Memo,
    Price,
    Prompt,
    Step,
    Task,
    optimize,
)
from promptopt.optimization.estimate import Estimate, estimate
from promptopt.optimization.simulation import Overlay
from promptopt.strategies.registry import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from promptopt import FeedbackRule, Model, Request
    from promptopt.prompt import Context

LONG = (
    "Below you see one item of a long list that somebody made with care . Read never the item perhaps and answer it "
    "loudly , with yes or with no and nothing else , please , for we have many of them to go through today ; think about "
    "what was asked before you say anything at all . Here it comes : {text} . Now say it"
)
WORDS = [
    "clear",
    "short",
    "exact",
    "careful",
    "plain",
    "brief",
    "sure",
    "proper",
    "direct",
    "honest",
    "strict",
    "simple",
    "firm",
    "quick",
    "calm",
    "close",
]


def chance(*of: object) -> float:
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:6]) / 2**48


def quality(text: str) -> float:
    return 0.85 - 0.1 * sum(word in text for word in toys.SPOILERS)


def answer(request: Request) -> str:
    text = toys.text_of(request.context)
    right = toys.right_answer(text)
    return right if chance(text) < quality(text) else toys.LABELS[1 - toys.LABELS.index(right)]


def logprobs(context: Context, labels: Sequence[str]) -> list[float]:
    text = toys.text_of(context)
    margin = 1.5 * (chance(text) - 1 + quality(text))
    return [-2 + (margin if label == toys.right_answer(text) else -margin) for label in labels]


def write(request: Request) -> str:
    """Drops some words of the best prompt and adds one, as many times as it is asked for."""
    text = toys.text_of(request.context)
    shown = [found for found in re.findall(r"<prompt>(.*?)</prompt>", text, flags=re.DOTALL) if "{text}" in found]
    if not shown:
        return "ready"
    wanted = re.search(r"write (\d+) better", text)
    out = []
    for n in range(int(wanted[1]) if wanted else 1):
        salt = (n, text, request.replicate)
        words = [word for i, word in enumerate(shown[0].split()) if word == "{text}" or chance(i, *salt) > 0.1]
        words.insert(int(chance(*salt) * len(words)), WORDS[int(16 * chance("word", *salt))])
        out.append(f"<prompt>{' '.join(words)}</prompt>")
    return "\n".join(out)


def paid(request: Request) -> str:
    raise AssertionError("a call was made")


def a_task(count: int = 6, prompt: str = LONG, **changes: object) -> Task:
    splits = {
        split: tuple(
            Example({"text": f"some other item{1000 * k + i}"}, toys.LABELS[i % 2], f"{split}{i}") for i in range(count)
        )
        for k, split in enumerate(("train", "validation", "test"))
    }
    return replace(toys.TASK, **splits, seed_prompt=Prompt(prompt), **changes)  # type: ignore[arg-type]  # of fields


MODELS: dict[str, Callable[[], Model]] = {
    "text": lambda: FakeModel(answer, "text"),
    "labels": lambda: FakeLabelModel(logprobs, "labels"),
}


# What these ask next, and when they end, depends on what they see: nothing but a budget says how much it will be.
BY_SCORES = {
    "components",
    "joint",
    "promptquine",
    "promptquine.ssga",
    "tapruning",
    "steepest",
    "unsupervised",
    "unsupervised.paper",
    "p1",
    "promst",
    "promst.paper",
}


# An estimate knows nothing of strategies, it runs them. So these are enough: with and without a writer, a budget, a program
# and another strategy inside, where scores decide and where they do not; all of them take minutes.
ONCE = {(name, "text") for name in ("random", "steepest", "hillclimb", "promptquine", "unsupervised")}
ONCE |= {(name, "labels") for name in ("hillclimb.opro", "p1", "components", "promst")}


SHORTER = {  # whole, they take 20,000 calls and more
    "hillclimb.paper": {"restarts": 2, "resets": 3},
    "hillclimb.positives_only": {"restarts": 2, "resets": 3},
    "hillclimb.opro": {"iterations": 20},
}


@pytest.mark.parametrize(
    ("strategy", "kind", "budget"),
    [
        pytest.param(name, kind, budget, marks=() if (name, kind) in ONCE else pytest.mark.wide)
        for name in BUILT_IN
        for kind, budget in (("text", None), ("labels", "700 calls"))
    ],
)
def test_the_calls_are_those_of_the_run(tmp_path: Path, strategy: str, kind: str, budget: str | None) -> None:
    """To a tenth, or to a factor of three where scores decide."""
    settings = SHORTER.get(strategy)
    count = 24 if strategy.startswith("unsupervised") else 6  # fewer are refused
    task = toys.PROGRAM_TASK if strategy == "components" else a_task(count)
    model, writer = MODELS[kind](), FakeModel(write, "writer")

    def expected() -> Estimate:
        return estimate(task, model, strategy, writer=writer, budget=budget, settings=settings, memo=tmp_path)

    before = expected()
    result = optimize(task, model, strategy, writer=writer, budget=budget, settings=settings, memo=tmp_path)
    made, after = sum(spent.calls for spent in result.paid.values()), expected()

    if strategy in BY_SCORES:
        assert made / 3 < before.asked.calls < 3 * made
    else:
        assert before.asked.calls == pytest.approx(made, rel=0.1)
    assert before.asked.calls <= int((budget or "1000000").split()[0])
    assert (before.known.calls, after.asked.calls) == (0, 0)
    assert after.known == sum(result.used.values(), start=type(after.known)())


def test_no_model_is_called_and_nothing_is_written(tmp_path: Path) -> None:
    model, judge = FakeModel(paid, "task"), FakeModel(paid, "judge")
    with Memo(tmp_path) as memo:
        needs = estimate(
            a_task(reward=Judge(judge, "Be brief.")), model, "random", writer=FakeModel(paid, "writer"), memo=memo
        )

        assert memo.stats().entries == 0
    assert {need.role for need in needs.needs} == {"task", "writer", "judge"}
    assert {need.stage for need in needs.needs} == {"start", "search", "validation", "test"}


def test_a_model_that_costs_needs_no_budget_to_be_asked_what_it_would_cost(tmp_path: Path) -> None:
    model = FakeModel(paid)
    model.price = Price(1.0, 10.0)
    needs = estimate(a_task(), model, "random", memo=tmp_path)

    assert needs.asked.dollars > 0
    assert needs.asked.dollars == sum(need.asked.dollars for need in needs.needs)
    assert str(needs).splitlines()[-1].startswith("note: simulated")


def test_an_unknown_price_is_said_and_never_taken_as_zero(tmp_path: Path) -> None:
    model: Model = FakeModel(paid)
    model.price = None  # type: ignore[misc]  # what the test is about
    needs = estimate(a_task(), model, "random", memo=tmp_path)

    assert {row[-1] for row in needs.rows()} == {"price unknown"}
    assert any("the price of the task model is unknown" in note for note in needs.notes)
    assert needs.to_json()["prices"]["task"] is None


def test_a_run_that_was_begun_needs_less(tmp_path: Path) -> None:
    model, writer = FakeModel(answer, "text"), FakeModel(write, "writer")
    optimize(a_task(), model, "random", writer=writer, budget="300 calls", memo=tmp_path)
    needs = estimate(a_task(), model, "random", writer=writer, memo=tmp_path)
    whole = estimate(a_task(), model, "random", writer=writer, memo=tmp_path / "empty")

    assert needs.known.calls > 150
    assert needs.asked.calls + needs.known.calls == pytest.approx(whole.asked.calls, rel=0.1)


def test_a_budget_that_is_too_small_says_so_as_the_run_would(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too small to compare even one candidate"):
        estimate(a_task(), FakeModel(paid), "random", budget="3 calls", memo=tmp_path)


class Happened(Enum):
    ENDED = "ended"


class Countdown:
    """An environment whose episodes end at their cap, or when the model says so."""

    rules: ClassVar[Mapping[Enum, FeedbackRule]] = {
        Happened.ENDED: lambda trajectory: f"It took {len(trajectory.turns)}."
    }

    def reset(self, instance: Mapping[str, Any], seed: int) -> str:  # noqa: ARG002  an environment's signature
        self.left, self.name = instance.get("cap", 9), instance["name"]
        return f"{self.name}: {self.left} left."

    def step(self, text: str) -> Step:
        self.left -= 1
        over = self.left == 0 or text not in self.actions()  # a senseless reply ends it
        return Step(f"{self.name}: {self.left} left.", over, (Happened.ENDED,) if over else ())

    def score(self) -> float:
        return chance(self.name, self.left)

    def actions(self) -> tuple[str, ...]:
        return ("wait", "look")


def episodes(**instance: int) -> Task:
    splits = {
        split: tuple(
            Example({"instance": json.dumps({"name": f"{split}{i}"} | instance)}, None, f"{split}{i}") for i in range(4)
        )
        for split in ("train", "validation", "test")
    }
    return Task(**splits, seed_prompt=Prompt("Play."), environment=Countdown, history=1)  # type: ignore[arg-type]


def until(rounds: int) -> FakeModel:
    """Waits so many rounds of eight, then ends the episode."""

    def play(request: Request) -> str:
        left = int(re.findall(r": (\d+) left", toys.text_of(request.context))[-1])
        return "wait" if 8 - left + 1 < rounds else "end"

    return FakeModel(play, f"until {rounds}")


def rephrase(request: Request) -> str:
    return f"<prompt>Play {WORDS[int(16 * chance(request.replicate))]} {request.replicate}.</prompt>"


@pytest.mark.parametrize(("rounds", "share"), [(8, 1.0), (2, 0.25)])
def test_episodes_are_taken_to_last_as_long_as_they_may(tmp_path: Path, rounds: int, share: float) -> None:
    given: dict[str, Any] = {
        "writer": FakeModel(rephrase, "writer"),
        "settings": {"prompts": 6, "batch": 6},
        "memo": tmp_path,
    }
    needs = estimate(episodes(cap=8), FakeModel(paid, f"until {rounds}"), "random", **given)
    result = optimize(episodes(cap=8), until(rounds), "random", **given)
    made, expected = result.paid["task"].calls, sum(need.asked.calls for need in needs.needs if need.role == "task")

    assert share * expected == pytest.approx(made, rel=0.1)
    assert made <= expected
    assert any("an upper bound" in note for note in needs.notes)


def test_a_run_of_episodes_that_was_begun_is_followed(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "writer": FakeModel(rephrase, "writer"),
        "settings": {"prompts": 6, "batch": 2},
        "memo": tmp_path,
    }
    first = optimize(episodes(cap=8), until(2), "random", budget="60 calls", **given)
    needs = estimate(episodes(cap=8), until(2), "random", **given)
    whole = optimize(episodes(cap=8), until(2), "random", **given)
    after = estimate(episodes(cap=8), until(2), "random", **given)

    assert needs.known.calls > 20
    assert needs.asked.calls >= whole.paid["task"].calls > 0
    assert any("took 25% of their maximum rounds" in note for note in needs.notes)
    assert after.asked.calls == 0
    assert after.known.calls == sum(spent.calls for spent in whole.used.values()) > len(first.history)


def test_episodes_of_a_model_that_chooses_are_taken_to_last_as_long_as_they_may(tmp_path: Path) -> None:
    model = FakeLabelModel(lambda _, labels: [-1.0 - len(label) for label in labels], "chooser")
    given: dict[str, Any] = {"writer": FakeModel(rephrase, "writer"), "settings": {"prompts": 6}, "memo": tmp_path}
    needs = estimate(episodes(cap=8), model, "random", **given)
    made = optimize(episodes(cap=8), model, "random", **given).paid["task"].calls

    assert sum(need.asked.calls for need in needs.needs if need.role == "task") == pytest.approx(made, rel=0.1)


def test_episodes_without_a_cap_are_said_to_end_who_knows_when(tmp_path: Path) -> None:
    needs = estimate(episodes(), FakeModel(paid), "random", settings={"prompts": 2}, memo=tmp_path)

    assert any("some instances give no `cap`" in note for note in needs.notes)
    assert not any("upper bound" in note for note in needs.notes)


def test_a_limit_of_the_task_bounds_episodes_without_a_cap(tmp_path: Path) -> None:
    task = replace(episodes(), max_rounds=3)
    needs = estimate(task, FakeModel(paid), "random", settings={"prompts": 2}, memo=tmp_path)

    assert any("upper bound" in note for note in needs.notes)
    played = sum(need.asked.calls for need in needs.needs if need.role == "task")
    assert played % 3 == 0
    assert played >= 3 * 2 * len(task.train)


def test_errors_of_simulated_episodes_give_promst_something_to_fix(tmp_path: Path) -> None:
    needs = estimate(
        episodes(cap=3), FakeModel(paid), "promst", writer=FakeModel(paid), memo=tmp_path, budget="200 calls"
    )
    writer = [need for need in needs.needs if need.role == "writer" and need.stage == "search"]

    assert writer[0].asked.calls > 3


def test_a_dry_run_reads_the_memo_and_keeps_what_is_new_to_itself(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        memo.put("a", 1)
        overlay = Overlay(memo)
        overlay.put("b", 2)
        overlay.put_many({"c": 3})

        assert not isinstance(overlay, Memo)  # of which it would hold no store
        assert overlay.get_many(["c", "a", "b", "d"]) == {"c": 3, "a": 1, "b": 2}
        assert memo.get_many(["a", "b", "c"]) == {"a": 1}
