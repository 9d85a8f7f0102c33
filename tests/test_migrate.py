from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shell import promptopt

from promptopt import (
    Arrival,
    Demonstrations,
    Example,
    Failure,
    FakeModel,
    FunctionModel,
    InputError,
    Price,
    Prompt,
    Prompts,
    Response,
    Result,
    Task,
    Usage,
    migrate,
    optimize,
)
from promptopt.optimization.migration import KnownCandidates
from promptopt.results.outcomes import read_outcomes
from promptopt.statistics import paired_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from promptopt import Ask, Request
    from promptopt.search.run import Run

WORDS = ("plain", "careful", "brief", "loud")


def items(numbers: range) -> tuple[Example, ...]:
    return tuple(Example({"text": f"q{n}"}, str(n % 3), f"{n}") for n in numbers)


TASK = Task(
    train=items(range(20)),
    validation=items(range(20, 44)),
    test=items(range(44, 100)),
    seed_prompt=Prompt("plain"),
    name="remainders",
)


def skilled(skill: Mapping[str, int], calls: list[str] | None = None) -> Callable[[Request], str]:
    """A reply function that is right on `skill` of 10 items by the prompt's last word; on 0 where the word is none of these."""

    def reply(request: Request) -> str:
        prompt, item = request.context[0].content, request.context[-1].content  # type: ignore[union-attr]
        if calls is not None:
            calls.append(prompt)
        number = int(item[1:])
        return str(number % 3) if number * 7 % 10 < skill.get(prompt.split()[-1], 0) else "none"

    return reply


OLD_SKILL = {"plain": 3, "careful": 8, "brief": 5, "loud": 1}
NEW_SKILL = {"plain": 4, "careful": 5, "brief": 9, "loud": 1}


def model(name: str, skill: Mapping[str, int], calls: list[str] | None = None) -> FunctionModel:
    return FunctionModel(skilled(skill, calls), name=name, version="1")


@dataclass(frozen=True)
class Fixed:
    """Scores these prompts."""

    writes = False

    def search(self, run: Run) -> None:
        run.score([Prompt(word) for word in WORDS])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder of a run that chose "careful"."""
    result = optimize(
        TASK, model("old", OLD_SKILL), Fixed(), run_dir=tmp_path / "old", memo=tmp_path / "memo", tracking=False
    )
    assert result.prompt == Prompt("careful")
    return tmp_path / "old"


def test_the_candidate_that_the_new_model_does_best_with_is_chosen_and_tested_against_the_old_prompt(
    old: Path, tmp_path: Path
) -> None:
    outcome = migrate(old, [model("new", NEW_SKILL)], TASK, memo=tmp_path / "memo", run_dir=tmp_path / "moved")
    (move,) = outcome.moves
    recorded, kept, chosen = outcome.measured

    assert move.result.prompt == Prompt("brief")
    assert move.result.seed_prompt == Prompt("careful")
    assert (recorded.model, recorded.prompt) == ("old (recorded)", "old prompt")
    assert recorded.reward == Result.load(old).test.chosen  # type: ignore[union-attr]
    assert (kept.prompt, chosen.prompt) == ("old prompt", "candidate 2")
    assert chosen.over_prompt is not None
    assert chosen.over_prompt.estimate == pytest.approx(chosen.reward.estimate - kept.reward.estimate)
    assert outcome.headline.startswith("new: candidate 2 is better than the old prompt (+0.")
    assert outcome.finished
    assert Result.load(move.result.run_dir) == move.result


def test_rewards_are_compared_with_the_record_item_by_item(old: Path, tmp_path: Path) -> None:
    outcome = migrate(old, [model("new", NEW_SKILL)], TASK, memo=tmp_path / "memo")
    before = {o.id: o.chosen.reward for o in read_outcomes(old / "test.jsonl")}
    outcomes = outcome.moves[0].result.test.outcomes  # type: ignore[union-attr]
    pairs = np.array([(before[o.id], o.seed.reward, o.chosen.reward) for o in outcomes], dtype=float)

    assert len(before) == len(pairs) == 56
    assert outcome.moves[0].over_model == (
        paired_interval(pairs[:, 1], pairs[:, 0]),
        paired_interval(pairs[:, 2], pairs[:, 0]),
    )
    assert outcome.measured[1].over_model.estimate < 0 < outcome.measured[2].over_model.estimate  # type: ignore[union-attr]


def test_other_test_items_are_not_compared_with_the_record(old: Path, tmp_path: Path) -> None:
    task = replace(TASK, test=items(range(200, 256)))
    outcome = migrate(old, [model("new", NEW_SKILL)], task, memo=tmp_path / "memo")

    assert outcome.moves[0].over_model is None
    assert "none of the old run's test items is in this test" in str(outcome)


def test_only_known_prompts_are_sent(old: Path, tmp_path: Path) -> None:
    calls: list[str] = []
    migrate(old, [model("new", NEW_SKILL, calls)], TASK, candidates=2, memo=tmp_path / "memo")

    assert set(calls) == {"careful", "plain", "brief"}  # the chosen prompt, the seed prompt, and the next best
    assert len(calls) <= 3 * 44 + 2 * 56


def test_the_old_prompt_is_kept_where_none_is_better(old: Path, tmp_path: Path) -> None:
    outcome = migrate(old, [model("new", OLD_SKILL)], TASK, memo=tmp_path / "memo")

    assert outcome.headline == "new: no candidate did better, so the old prompt was kept."
    assert [row.prompt for row in outcome.measured] == ["old prompt", "old prompt"]
    assert outcome.measured[1].over_model.estimate == 0  # type: ignore[union-attr]


def test_a_second_migration_makes_no_call_and_is_equal(old: Path, tmp_path: Path) -> None:
    calls: list[str] = []
    first, second = (
        migrate(old, [model("a", NEW_SKILL, calls), model("b", OLD_SKILL, calls)], TASK, memo=tmp_path / "memo")
        for _ in range(2)
    )

    assert first.moves == second.moves
    assert sum(spent.calls for move in second.moves for spent in move.result.paid.values()) == 0
    assert len(calls) == sum(spent.calls for move in first.moves for spent in move.result.paid.values())


def test_a_search_starts_from_the_best_candidate_and_is_tested_against_the_old_prompt(
    old: Path, tmp_path: Path
) -> None:
    skill = {**NEW_SKILL, "best": 10}
    asked: list[str] = []

    def write(request: Request) -> str:
        asked.append("\n".join(str(message) for message in request.context))
        return "<prompt>be the best</prompt>"

    outcome = migrate(
        old,
        [model("new", skill)],
        TASK,
        search="2000 calls",
        strategy="random",
        settings={"prompts": 8},
        writer=FakeModel(write, "writer"),
        memo=tmp_path / "memo",
    )
    result = outcome.moves[0].result

    assert result.prompt == Prompt("be the best")
    assert result.seed_prompt == Prompt("careful")
    assert {record.prompt for record in result.history} >= {Prompt(word) for word in WORDS}
    assert asked
    assert all("brief" in text and "careful" not in text for text in asked[1:])  # the first is a greeting


async def say(ask: Ask, prompts: Prompts, example: Example) -> Response:
    return await ask("say", example)


def test_the_prompts_of_a_program_move_together(old: Path, tmp_path: Path) -> None:
    result = Result.load(old)
    history = tuple(replace(record, prompt=Prompts({"say": record.prompt})) for record in result.history)
    program = replace(
        result,
        prompt=Prompts({"say": result.prompt}),
        seed_prompt=Prompts({"say": result.seed_prompt}),
        history=history,
        test=None,
    )
    task = replace(TASK, program=say, seed_prompt=Prompts({"say": Prompt("plain")}))
    outcome = migrate(program, [model("new", NEW_SKILL)], task, memo=tmp_path / "memo")

    assert outcome.moves[0].result.prompt == Prompts({"say": Prompt("brief")})
    assert [row.model for row in outcome.measured] == ["new", "new"]  # the old run has no test


def test_without_a_search_no_writer_is_needed() -> None:
    strategy = KnownCandidates(prompts=(Prompt("a"),))
    assert not strategy.writes
    assert not strategy.programs


def test_tokens_and_dollars_are_of_one_reply(old: Path, tmp_path: Path) -> None:
    def reply(request: Request) -> Response:
        return Response(skilled(NEW_SKILL)(request), usage=Usage(input=len(str(request.context)), output=2))

    priced = FunctionModel(reply, name="priced", version="1")
    priced.price = Price(1.0, 1.0)
    outcome = migrate(old, [priced], TASK, budget="2000 calls", memo=tmp_path / "memo")
    for row in outcome.measured[1:]:
        assert row.tokens is not None
        assert row.tokens > 2
        assert row.dollars == pytest.approx(row.tokens / 1000)  # a dollar per million tokens, a thousand replies
    assert [row[-1].startswith("-\n") for row in outcome.rows()] == [True, False, False]  # the old model reported none


def test_nothing_is_spent_if_one_of_the_models_has_no_limit(old: Path, tmp_path: Path) -> None:
    calls: list[str] = []
    costly = FakeModel(skilled(NEW_SKILL), "costly")
    costly.price = Price(1.0, 1.0)
    with pytest.raises(InputError, match="the task model costs money and no budget is set"):
        migrate(old, [model("free", NEW_SKILL, calls), costly], TASK, memo=tmp_path / "memo")
    assert not calls


class Unreliable(FunctionModel):
    """Loses the replies to one prompt."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        for index, request in enumerate(requests):
            lost = "loud" in str(request.context)
            yield Arrival(index, Failure("lost") if lost else Response(str(self.handler(request))))


def test_an_unfinished_run_ends_the_migration(old: Path, tmp_path: Path) -> None:
    calls: list[str] = []
    first = Unreliable(skilled(NEW_SKILL), name="first", version="1")
    outcome = migrate(old, [first, model("second", OLD_SKILL, calls)], TASK, memo=tmp_path / "memo")

    assert not outcome.finished
    assert outcome.headline.startswith("first: unfinished (")
    assert len(outcome.moves) == 1
    assert not calls


def test_a_prompt_that_does_not_fit_the_task_is_refused(old: Path, tmp_path: Path) -> None:
    result = replace(Result.load(old), prompt=Prompt("Say {number}"))
    with pytest.raises(InputError, match=r"the old prompt has the slot \{number\}, but"):
        migrate(result, [model("new", NEW_SKILL)], TASK, memo=tmp_path / "memo")


def test_a_run_that_knows_one_prompt_only_is_refused(old: Path, tmp_path: Path) -> None:
    result = replace(Result.load(old), prompt=TASK.seed_prompt, history=())
    with pytest.raises(InputError, match="scored no other prompt"):
        migrate(result, [model("new", NEW_SKILL)], TASK, memo=tmp_path / "memo")


def test_prompts_that_show_test_items_are_noted(old: Path, tmp_path: Path) -> None:
    shown = Prompt("careful", Demonstrations(TASK.test[:2]))
    outcome = migrate(replace(Result.load(old), prompt=shown), [model("new", NEW_SKILL)], TASK, memo=tmp_path / "memo")
    assert "the prompt shows 2 of the test examples" in str(outcome)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": []}, "the new models must be several, or one in a list"),
        ({"models": "local:smollm2"}, "or one in a list, not 'local:smollm2'"),
        ({"models": [model("a", {}), model("a", {})]}, "the model 'a' is named twice"),
        ({"candidates": 0}, "the number of candidates must be at least 1, not 0"),
        ({"strategy": "random"}, "are for a search: give its budget too"),
        ({"budget": "9 calls", "search": "9 calls"}, "give search alone, not budget"),
        ({"budget": "9 calls"}, "the budget of 9 calls is too small to compare even one candidate"),
    ],
)
def test_what_cannot_be_used_is_refused(old: Path, changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"run": old, "models": [model("new", NEW_SKILL)], "task": TASK, **changes}
    with pytest.raises(InputError) as caught:
        migrate(**arguments)
    assert message in str(caught.value)


# ---- the command line

TASK_FILE = """
name = "remainders"
seed_prompt = "plain"
[data]
file = "data.csv"
inputs = ["text"]
label = "answer"
"""
CODE = """
from promptopt import FunctionModel
SKILLS = {"old": {"plain": 3, "careful": 8, "brief": 5}, "new": {"plain": 4, "careful": 5, "brief": 9}}
def made(name):
    def answer(request):
        if "<prompt>" in str(request.context):
            return "<prompt>careful</prompt><prompt>brief</prompt>"
        number, word = int(request.context[-1][1][1:]), request.context[0][1].split()[-1]
        return str(number % 3) if number * 7 % 10 < SKILLS[name].get(word, 0) else "none"
    return FunctionModel(answer, name=name, version="1")
old, new = made("old"), made("new")
def no(request):
    raise SystemExit("a call was made")
silent = FunctionModel(no, name="silent", version="1")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = "".join(f"q{n},{n % 3}\n" for n in range(150))
    (tmp_path / "data.csv").write_text(f"text,answer\n{rows}", encoding="utf-8")
    (tmp_path / "task.toml").write_text(TASK_FILE, encoding="utf-8")
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    words = ("--model", "python:mine:old", "--strategy", "random", "--budget", "1500 calls", "--run-dir", "run")
    done = promptopt(tmp_path, "optimize", "task.toml", *words, "--no-study", "--quiet")
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_the_command_prints_a_table_and_writes_runs(folder: Path) -> None:
    words = ("migrate", "run", "--task", "task.toml", "--to", "python:mine:new", "--quiet")
    free = promptopt(folder, *words[:-2], "python:mine:silent", "--dry-run", "--json")
    done, again = promptopt(folder, *words), promptopt(folder, *words, "--json")
    values = json.loads(again.stdout)

    assert free.returncode == 0, free.stderr
    assert json.loads(free.stdout)["asked"]["calls"] > 100
    assert done.returncode == 0, done.stderr
    assert "is better than the old prompt (+0." in done.stdout
    assert "brief" in done.stdout
    assert [row["model"] for row in values["measured"]] == ["old (recorded)", "new", "new"]
    assert values["moves"][0]["prompt"] == {"text": "brief"}
    assert Result.load(folder / values["moves"][0]["run_dir"]).prompt == Prompt("brief")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--to", "python:mine:new", "--to", "python:mine:old", "--price", "1,2"), "--price is for one model"),
        (("absent", "--to", "python:mine:new"), "cannot read absent"),
    ],
)
def test_usage_errors(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
    done = promptopt(tmp_path, "migrate", *words, "--task", "task.toml")
    assert done.returncode == 2
    assert message in done.stderr
