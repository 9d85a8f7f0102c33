"""p1: which examples the search is narrowed to, what is said of it, and `promptopt diagnose`."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import toys
from shell import promptopt

from promptopt import (
    Arrival,
    Example,
    Failure,
    FakeLabelModel,
    FakeModel,
    FunctionModel,
    HillClimb,
    InputError,
    Memo,
    Prompt,
    PromptQuine,
    Request,
    Response,
    Result,
    Run,
    Task,
    optimize,
)
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.randomness import named_generator
from promptopt.strategies import P1
from promptopt.strategies.base import needs_no_labels
from promptopt.strategies.p1 import probe, pruned_candidates, varied_candidates
from promptopt.strategies.registry import find_strategy, settings_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from promptopt import Model

ITEMS = tuple(Example({"text": f"item{i}"}, "yes", f"e{i}") for i in range(12))
SEED = Prompt("Seed {text}")
PROMPTS = tuple(Prompt(f"P{n} {{text}}") for n in range(8))


def read(request: Request) -> tuple[int, int, float]:
    """Return (prompt, item, a chance in [0, 1) that differs from replicate to replicate)."""
    prompt, item = toys.text_of(request.context).rsplit(" ", 1)
    digits = "".join(filter(str.isdigit, prompt.split()[0]))
    chance = hashlib.sha256(f"{prompt} {item} {request.replicate}".encode()).digest()[0] / 256
    return int(digits or 0), int(item.removeprefix("item")), chance


def telling(request: Request) -> str:
    """Items 3 and 7 tell odd prompts from even ones; all others are a coin, whatever the prompt."""
    prompt, item, chance = read(request)
    right = prompt % 2 == 1 if item in (3, 7) else chance < 0.5
    return "yes" if right else "no"


def numbered(request: Request) -> str:
    return f"<prompt>P{request.replicate} {{text}}</prompt>"


_OPEN: list[Memo] = []


@pytest.fixture(autouse=True)
def _memos_are_closed() -> Iterator[None]:
    yield
    while _OPEN:
        _OPEN.pop().close()


def a_run(tmp_path: Path, model: Model, *, calls: float | None = None, **settings: Any) -> Run:
    task = Task(**{"train": ITEMS, "seed_prompt": SEED, "format": "completion", "temperature": 1.0, **settings})
    _OPEN.append(Memo(tmp_path))
    caller = Caller(_OPEN[-1], Ledger(Budget(calls=calls)))
    return Run(task, named_generator(0, "test"), 0, Scorer(task, model, caller), FakeModel(numbered, "writer"))


def calls_of(run: Run) -> int:
    return run.ledger.logical["task"].calls


class Seen:
    """An inner strategy that keeps the run it is given."""

    writes = True

    def __init__(self) -> None:
        self.run: Run | None = None

    def search(self, run: Run) -> None:
        self.run = run
        run.score([SEED])


# ---------------------------------------------------------------- what is chosen


def test_the_search_is_narrowed_to_the_examples_that_tell_prompts_apart(tmp_path: Path) -> None:
    inner = Seen()
    run = a_run(tmp_path, FakeModel(telling))
    P1(inner=inner).search(run)

    assert inner.run is not None
    assert [example.id for example in inner.run.task.train] == ["e3", "e7"]
    assert inner.run.archive is run.archive
    assert run.steps[0]["filter"] == "yes"
    assert run.steps[0]["chosen"] == "e3 e7"
    assert 0.1 < run.steps[0]["held_out"] < 0.4
    # as many replies for a prompt as on all twelve examples; the probe's prompts are candidates on the same terms
    assert {candidate.cells for candidate in run.archive.values()} == {12}
    assert run.archive[Prompt("P1 {text}")].fitness > run.archive[Prompt("P2 {text}")].fitness


def test_where_prompts_do_not_differ_the_search_gets_all_examples(tmp_path: Path) -> None:
    inner = Seen()
    run = a_run(tmp_path, FakeModel(lambda request: "yes" if read(request)[1] % 2 else "no"))
    P1(inner=inner).search(run)

    assert inner.run is run
    assert run.steps[0]["filter"].startswith("no: candidates differ by less than 0.02")
    assert {candidate.cells for candidate in run.archive.values()} == {12}


@pytest.mark.parametrize(("aligned", "chosen"), [(True, {0, 1, 2, 3, 4, 5, 6, 7, 8}), (False, {9, 10, 11})])
def test_a_minority_of_opposed_taste_is_chosen_only_without_the_guard(
    tmp_path: Path,
    aligned: bool,  # noqa: FBT001
    chosen: set[int],
) -> None:
    def camps(request: Request) -> str:
        prompt, item, chance = read(request)
        liked = 0.5 + (0.25 if prompt % 2 else -0.25) * (1 if item < 9 else -2)
        return "yes" if chance < liked else "no"

    inner = Seen()
    P1(inner=inner, aligned=aligned, worth=0).search(a_run(tmp_path, FakeModel(camps, f"camps{aligned}")))

    assert inner.run is not None
    assert {int(example.id[1:]) for example in inner.run.task.train} <= chosen


def test_prunings_stand_in_where_the_inner_strategy_writes_nothing(tmp_path: Path) -> None:
    run = a_run(tmp_path, FakeModel(telling), seed_prompt=Prompt("one two three four five six {text}"))
    prompts = pruned_candidates(run, 6)

    assert len(set(prompts)) == 6
    assert prompts[0] == run.task.seed_prompt
    for prompt in prompts[1:]:
        kept = iter("one two three four five six {text}")
        assert all(character in kept for character in prompt.text)
        assert "{text}" in prompt.text
    assert len(pruned_candidates(a_run(tmp_path, FakeModel(telling)), 6)) < 6  # one word: nothing to take away


def test_written_candidates_begin_with_the_seed_prompt_and_are_all_different(tmp_path: Path) -> None:
    prompts = varied_candidates(a_run(tmp_path, FakeModel(telling)), 9)

    assert prompts[0] == SEED
    assert len(set(prompts)) == 9


def test_too_few_candidates_are_no_ground_to_choose_by(tmp_path: Path) -> None:
    inner = Seen()
    run = a_run(tmp_path, FakeModel(telling))
    run.writer = FakeModel(lambda _: "<prompt>Say {text}</prompt>", "poor")
    P1(inner=inner).search(run)

    assert inner.run is run
    short = "no: 2 candidates for 12 examples are too few to choose 2 by"
    assert run.steps == [{"filter": short, "candidates": 2, "rejected": 60, "why": "60 identical to a known prompt"}]


# ---------------------------------------------------------------- the probe


def test_replicates_are_samples_of_their_own_and_no_more_than_are_worth_it(tmp_path: Path) -> None:
    run = a_run(tmp_path, FakeModel(telling))
    found = probe(run, PROMPTS, 64)
    replicates = found.rewards.shape[2]

    assert 2 < replicates < 64
    assert 0.3 < np.nanmean(found.rewards[:, 0]) < 0.7
    assert calls_of(run) == np.isfinite(found.rewards).sum()


def test_replies_that_never_vary_are_asked_for_twice_and_no_more(tmp_path: Path) -> None:
    run = a_run(tmp_path, FakeModel(lambda request: "yes" if read(request)[0] % 2 else "no"))
    run.writer = FakeModel(numbered, "w")
    P1(inner=Seen()).search(run)

    assert run.steps[0]["noise"] == 0
    assert run.steps[0]["repeats"] == 1
    assert run.steps[0]["replies"].startswith("the same in every replicate")
    assert calls_of(run) == 16 * 12 * 2


def test_log_probabilities_are_the_same_in_every_replicate_and_cost_one_call(tmp_path: Path) -> None:
    def sure(context: Any, _: Sequence[str]) -> list[float]:
        return [-0.1, -2.0] if "P1" in toys.text_of(context) else [-2.0, -0.1]

    run = a_run(tmp_path, FakeLabelModel(sure), labels=("yes", "no"))
    found = probe(run, PROMPTS, 8)

    assert found.rewards.shape == (8, 12, 2)
    assert calls_of(run) == 8 * 12


def test_failed_and_truncated_replies_are_gaps_and_no_zeros(tmp_path: Path) -> None:
    class Breaking(FakeModel):
        def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
            for number, request in enumerate(requests):
                prompt, item, _ = read(request)
                if item == 5:
                    yield Arrival(number, Failure("busy"))
                elif prompt == 2 and item < 4:
                    yield Arrival(number, Response("no", finish_reason="length"))
                else:
                    yield Arrival(number, Response("yes"))

    found = probe(a_run(tmp_path, Breaking(telling)), PROMPTS, 8)

    assert np.isnan(found.rewards[:, 5]).all()
    assert np.isnan(found.rewards[2, :4]).all()
    assert np.nanmin(found.rewards) == 1
    assert found.truncated_share == 4 / (8 * 12)


def test_where_all_replies_are_cut_off_they_are_what_there_is(tmp_path: Path) -> None:
    model = FakeModel(lambda request: Response(telling(request), finish_reason="length"))
    found = probe(a_run(tmp_path, model), PROMPTS, 4)

    assert np.isfinite(found.rewards[:, :, :2]).all()
    assert found.truncated_share == 1


def test_what_a_small_budget_paid_for_is_a_candidate_all_the_same(tmp_path: Path) -> None:
    from promptopt import BudgetExhaustedError

    run = a_run(tmp_path, FakeModel(telling), calls=100)
    with pytest.raises(BudgetExhaustedError):
        P1(inner=Seen()).search(run)

    assert SEED in run.archive
    assert len(run.archive) >= 3
    assert {candidate.cells for candidate in run.archive.values()} == {12}
    assert calls_of(run) <= 100


def test_when_nothing_comes_back_the_search_goes_on_as_without_a_filter(tmp_path: Path) -> None:
    class Broken(FakeModel):
        def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
            for number, _ in enumerate(requests):
                yield Arrival(number, Failure("busy"))

    inner = Seen()
    run = a_run(tmp_path, Broken(telling))
    P1(inner=inner).search(run)

    assert inner.run is run


# ---------------------------------------------------------------- whole runs


def test_the_papers_filter_is_its_algorithm_1(tmp_path: Path) -> None:
    """16 system prompts, plug-in noise, no guard, all replicates; eq. 5 by hand."""
    strategy = replace(P1.paper(), replicates=8, inner=Seen())
    run = a_run(tmp_path, FakeModel(telling))
    strategy.search(run)
    prompts = [prompt for prompt in run.archive if prompt != SEED]  # all from the writer, in answer to one message
    rewards = probe(run.with_own_archive(), prompts, 8, planned=False).rewards
    p = rewards.mean(axis=2)

    def score(pair: tuple[int, int]) -> float:
        chance = 15 / 256 * (p * (1 - p))[:, pair].mean(axis=1).sum() / (2 * 8)
        return float(p[:, pair].mean(axis=1).var() - chance)

    best = max(((k, j) for k in range(12) for j in range(k + 1, 12)), key=score)
    assert rewards.shape == (16, 12, 8)
    assert strategy.choose(rewards) == best
    assert run.steps[0]["chosen"] == " ".join(ITEMS[k].id for k in best)


def test_the_papers_candidates_are_answers_to_one_message_without_a_score(tmp_path: Path) -> None:
    asked: list[Request] = []

    def writer(request: Request) -> str:
        asked.append(request)
        return numbered(request)

    run = a_run(tmp_path, FakeModel(telling))
    run.writer = FakeModel(writer, "writer")
    replace(P1.paper(), replicates=2, inner=Seen()).search(run)

    assert len({request.context for request in asked}) == 1
    assert [request.replicate for request in asked] == list(range(16))
    assert {request.temperature for request in asked} == {1.0}
    assert "score" not in toys.text_of(asked[0].context)
    assert len(run.archive) == 17


@pytest.mark.parametrize(("strategy", "cut"), [(P1(), math.nan), (P1.paper(), 0.0)])
def test_a_reply_that_was_cut_off_is_a_gap_and_in_the_paper_nothing(strategy: P1, cut: float, tmp_path: Path) -> None:
    def handler(request: Request) -> Response:
        prompt, item, _ = read(request)
        return Response("yes", finish_reason="length" if prompt == item == 3 else "stop")

    zeros = strategy.cut_off == "zero"
    rewards = probe(a_run(tmp_path, FakeModel(handler)), PROMPTS, 2, planned=False, zeros=zeros).rewards

    assert np.array_equal(rewards[3, 3], [cut, cut], equal_nan=True)
    assert np.nansum(rewards) == 8 * 12 * 2 - 2


@pytest.mark.parametrize(
    ("inner", "writes", "unlabelled"),
    [("hillclimb", True, False), ("promptquine", False, False), ("unsupervised", False, True), (Seen(), True, False)],
)
def test_it_asks_for_what_its_inner_strategy_asks_for(inner: object, writes: bool, unlabelled: bool) -> None:  # noqa: FBT001
    strategy = P1(inner=inner)

    assert (strategy.writes, strategy.unlabelled) == (writes, unlabelled)
    assert needs_no_labels(strategy) is unlabelled
    assert P1(inner=strategy).writes is writes


def test_an_inner_strategy_that_looks_at_no_label_gets_all_examples_unprobed(tmp_path: Path) -> None:
    class Blind(Seen):
        unlabelled = True

    inner = Blind()
    bare = tuple(replace(item, target=None) for item in ITEMS)
    run = a_run(tmp_path, FakeModel(telling), train=bare, reward=lambda _, __: 0.0)
    P1(inner=inner).search(run)

    assert inner.run is run
    assert calls_of(run) == len(ITEMS)
    assert run.steps[0]["filter"].startswith("no: ")


def test_no_writer_is_called_where_the_inner_strategy_writes_nothing(tmp_path: Path) -> None:
    strategy = P1(inner=PromptQuine(shortest=5, max_prompts=40), subset=4)
    result = optimize(
        toys.TASK,
        FakeModel(toys.answer),
        strategy,
        writer=FakeModel(toys.writer, "w"),
        budget="9000 calls",
        memo=tmp_path,
    )

    assert "writer" not in result.models


def test_the_papers_constants() -> None:
    assert settings_of(P1.paper()) == {
        "inner": "hillclimb",
        "systems": 16,
        "replicates": 128,
        "subset": 2,
        "candidates": "one message",
        "aligned": False,
        "cut_off": "zero",
        "noise": "plug-in",
        "worth": 0.0,
    }


@pytest.mark.parametrize("toy", toys.TOYS, ids=lambda toy: toy.name)
def test_a_wrapped_strategy_finds_the_optimum(toy: toys.Toy, tmp_path: Path) -> None:
    inner = HillClimb()
    result = optimize(
        toy.task, toy.model(), P1(inner=inner, subset=4), writer=FakeModel(toys.writer, "w"), budget="9000 calls",
        memo=tmp_path,
    )  # fmt: skip

    assert result.test is not None
    assert result.test.chosen.estimate == toy.optimum
    assert result.steps[0]["candidates"] == 16


def test_a_strategy_that_writes_nothing_is_wrapped_too(tmp_path: Path) -> None:
    strategy = P1(inner=PromptQuine(shortest=5, max_prompts=200), subset=4)
    result = optimize(toys.TASK, FakeModel(toys.answer), strategy, budget="9000 calls", memo=tmp_path)

    assert result.test is not None
    assert result.test.difference.estimate > 0
    assert len(result.steps[0]["chosen"].split()) == 4


@pytest.mark.parametrize(
    "dies", [40, pytest.param(200, marks=pytest.mark.wide), pytest.param(450, marks=pytest.mark.wide), 520]
)
def test_killed_and_run_again_it_ends_the_same_and_repeats_no_call(dies: int, tmp_path: Path) -> None:
    made = 0

    def counting(request: Request) -> str:
        nonlocal made
        if made == limit:
            raise KeyboardInterrupt
        made += 1
        return toys.answer(request)

    def whole(folder: str) -> Result:
        writer = FakeModel(toys.writer, "w")
        return optimize(
            toys.TASK,
            FunctionModel(counting, name="counting", version="1"),
            P1(),
            writer=writer,
            budget="2000 calls",
            memo=tmp_path / folder,
        )

    limit = -1
    calm = whole("calm")
    of_calm, made, limit = made, 0, dies
    with pytest.raises(KeyboardInterrupt):
        whole("killed")
    limit = -1

    assert whole("killed") == calm
    assert made == of_calm


# ---------------------------------------------------------------- settings


def test_the_inner_strategy_is_named_in_a_setting() -> None:
    strategy = find_strategy("p1", {"inner": "promptquine.paper", "subset": "3"})

    assert strategy == P1(inner="promptquine.paper", subset=3)
    assert P1(inner="promptquine.paper").strategy() == PromptQuine.paper()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner": "hilclimb"}, "did you mean 'hillclimb'"),
        ({"inner": 3}, "inner must be a strategy or one of"),
        ({"replicates": 1}, "at least 2, not 1: a single reply cannot separate a better prompt from luck"),
        ({"systems": 3}, "systems must be at least 4"),
        ({"subset": 0}, "subset must be at least 1"),
        ({"noise": "none"}, "noise must be 'unbiased' or 'plug-in'"),
        ({"worth": math.nan}, "worth must be 0 or more"),
    ],
)
def test_a_wrong_setting_says_the_mend(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        P1(**settings)


# ---------------------------------------------------------------- promptopt diagnose

MODEL = """
import hashlib, re
from promptopt import FakeModel

def handler(request):
    text = str(request.context[-1][1])
    if "<prompt>" in text:
        return f"<prompt>{'Wrongly' if request.replicate % 2 else 'Well'} {request.replicate} odd or even: {{number}}</prompt>"
    number = int(re.findall(r"\\d+", text)[-1])
    if hashlib.sha256(f"{text} {request.replicate}".encode()).digest()[0] < 50:
        return "odd"
    return "odd" if "Wrongly" in text or number % 2 else "even"

def alike(request):
    text = str(request.context[-1][1])
    return handler(request) if "<prompt>" in text else "odd"

model = FakeModel(handler, "numbers")
same = FakeModel(alike, "same")
costly = FakeModel(handler, "costly")
costly.price = None
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "\n".join(f"{n},{'odd' if n % 2 else 'even'}" for n in range(40))
    (tmp_path / "data.csv").write_text(f"number,answer\n{rows}\n")
    (tmp_path / "mine.py").write_text(MODEL)
    return tmp_path


def diagnose(folder: Path, model: str, *words: str) -> subprocess.CompletedProcess[str]:
    task = ["--data", "data.csv", "--input", "number", "--label", "answer", "--labels", "odd,even"]
    command = ["diagnose", *task, "--seed-prompt", "Well, odd or even: {number}"]
    return promptopt(folder, *command, "--model", f"python:mine:{model}", *words)


def test_a_diagnosis_says_in_plain_words_whether_prompts_differ(folder: Path) -> None:
    done = diagnose(folder, "model", "--replicates", "4")

    assert done.returncode == 0, done.stderr
    assert "Worth optimizing? Yes: prompts differ" in done.stdout
    assert "Expected gain of a search" in done.stdout


def test_a_diagnosis_of_a_task_where_nothing_matters_says_what_to_change(folder: Path) -> None:
    done = diagnose(folder, "same", "--json", "--examples", "12")
    said = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert said["verdict"].startswith("No: the prompts tried differ by less than 0.02")
    assert "under every prompt" in said["advice"][0]
    assert said["variance"] == {"system": [0, 0, 0], "interaction": [0, 0, 0], "noise": [0, 0, 0]}
    assert (said["systems"], said["examples"], said["replicates"], said["missing"]) == (16, 12, 2, 0)


def test_a_diagnosis_that_costs_money_wants_a_budget_and_says_how_much(folder: Path) -> None:
    done = diagnose(folder, "costly", "--examples", "10", "--systems", "4", "--replicates", "2")

    assert done.returncode == 2
    assert "this takes up to 80 calls; set one, such as --budget '80 calls'" in done.stderr


def test_a_diagnosis_without_a_writer_takes_words_away(folder: Path) -> None:
    done = diagnose(folder, "model", "--pruned", "--systems", "5", "--json")
    said = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert all(len(row["prompt"]) < len("Well, odd or even: {number}") for row in said["prompts"][1:])
