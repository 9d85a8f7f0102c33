"""Several objectives: the front, which point is recommended, what its test claims, and what is refused before anything is spent."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import toys
from test_harness import a_task, calls

from promptopt import (
    Example,
    FakeModel,
    HillClimb,
    InputError,
    Judge,
    Memo,
    Price,
    Prompt,
    Response,
    Result,
    Run,
    Usage,
    optimize,
)
from promptopt.errors import RewardError
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.objectives import measure, signs
from promptopt.evaluation.scorer import Scorer
from promptopt.evaluation.verdicts import verdict
from promptopt.optimization.estimate import estimate
from promptopt.optimization.fronts import front_shortlist, front_tests
from promptopt.optimization.objectives import Objectives, check_objectives, read_objectives
from promptopt.replies import Failure
from promptopt.scores import Scores
from promptopt.search.archive import Archive

if TYPE_CHECKING:
    from pathlib import Path

    from promptopt import Request

SEED = "Answer {text} in a long and winding sentence"
GOOD = ("help", "aid", "lift")  # each lets the model answer a quarter of the items more
TEXTS = (
    "Answer {text}",
    "Answer {text} help",
    "help aid {text} x",
    "help aid lift {text} now",
    "padding " * 9 + "{text}",
)


def text_of(request: Request) -> str:
    return toys.text_of(request.context)


def chance(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32


def answer(request: Request) -> Response:
    """More of the helpful words answer more items; each word is a token."""
    text = text_of(request)
    item = re.findall(r"item\d+", text)[-1] + re.findall(r"[a-z]+\d+", text)[0]
    right = chance(item) < 0.25 * (1 + sum(word in text.split() for word in GOOD))
    label = toys.right_answer(text)
    return Response(
        label if right else toys.LABELS[1 - toys.LABELS.index(label)], usage=Usage(len(text.split()), output=1)
    )


class Paid(FakeModel):
    price = Price(10.0, 100.0)


@dataclass(frozen=True)
class Texts:
    """A strategy that scores the seed prompt and the prompts that it is given."""

    writes: ClassVar[bool] = False

    texts: tuple[str, ...] = TEXTS

    def search(self, run: Run) -> None:
        run.score([run.task.seed_prompt, *map(Prompt, self.texts)])


TASK = a_task(40, 40, 60, seed_prompt=Prompt(SEED))


def search(memo: Path | Memo, **settings: Any) -> Result:
    given = {"strategy": Texts(), "objectives": ("reward", "tokens"), **settings}
    task, model = given.pop("task", TASK), given.pop("model", None) or FakeModel(answer)
    return optimize(task, model, memo=memo, **given)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return search(tmp_path_factory.mktemp("front"))


def front_texts(result: Result) -> list[str]:
    return [record.prompt.text for record in result.front]


def test_the_front_is_all_prompts_that_no_other_beats(found: Result) -> None:
    assert front_texts(found) == [
        "help aid lift {text} now",
        "help aid {text} x",
        "Answer {text} help",
        "Answer {text}",
    ]
    assert found.prompt == Prompt("help aid lift {text} now")  # the highest reward, by default
    rewards = [point.means["reward"] for point in found.points]
    tokens = [point.means["tokens"] for point in found.points]
    assert rewards == sorted(rewards, key=lambda value: -(value or 0))
    assert tokens == pytest.approx([7, 6, 5, 4])  # the words of the prompt and the item, and one of the reply


def test_all_points_are_tested_on_the_same_items_with_wider_intervals(found: Result) -> None:
    assert found.test is not None
    tests = found.test.front
    assert len(tests) == len(found.points)
    own = tests[0].over_seed["reward"]
    assert own.estimate == pytest.approx(found.test.difference.estimate)
    assert own.low < found.test.difference.low  # one of several that hold together
    assert own.high > found.test.difference.high
    assert tests[0].means["reward"] == pytest.approx(found.test.chosen.estimate)
    # Replies are one token, so that the difference in tokens is that of the prompts.
    assert tests[-1].over_seed["tokens"] == (-6.0, -6.0, -6.0)


def test_each_cell_of_the_test_is_asked_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def counted(request: Request) -> Response:
        asked.append(text_of(request))
        return answer(request)

    search(tmp_path, model=FakeModel(counted))
    test = [text for text in asked if "test" in text]

    assert len(test) == len(set(test)) == 5 * 60  # the seed prompt and four points


@pytest.mark.parametrize(
    ("prefer", "text"),
    [
        ("reward", "help aid lift {text} now"),
        ("tokens", "Answer {text}"),
        ("reward, tokens <= 5", "Answer {text} help"),
        ("tokens, reward >= best - 0.3", "help aid {text} x"),
        ("tokens, reward >= 0.9", "help aid lift {text} now"),
    ],
)
def test_the_preference_chooses_a_point_by_training_and_validation(tmp_path: Path, prefer: str, text: str) -> None:
    result = search(tmp_path, prefer=prefer)

    chosen = result.chosen_record
    assert chosen is not None
    assert chosen in result.front
    assert result.prompt == Prompt(text)
    assert result.prefer == prefer


def test_a_condition_that_no_point_satisfies_gives_the_nearest_and_a_note(tmp_path: Path) -> None:
    result = search(tmp_path, prefer="reward, tokens <= 2")

    assert result.prompt == Prompt("Answer {text}")
    assert any("tokens <= 2" in note and "nearest" in note for note in result.notes)


def test_conditions_apply_in_turn() -> None:
    aims = read_objectives("reward,tokens,care", "tokens, reward >= 0.5, care >= best - 0.1")
    assert aims is not None
    #                  reward tokens care
    means = np.array([[0.9, 50.0, 0.2], [0.7, 20.0, 0.9], [0.6, 10.0, 0.5], [0.1, 1.0, 0.95]])

    assert aims.recommend(means) == (1, [])
    assert (
        aims.recommend(means[[0, 2, 3]])[0] == 1
    )  # no care within 0.1 of the best and a reward of 0.5: the nearest care
    assert [str(condition) for condition in aims.recommend(means[[0, 2, 3]])[1]] == ["care >= best - 0.1"]


def test_dollars_are_for_a_thousand_replies(tmp_path: Path) -> None:
    result = search(tmp_path, objectives=["dollars", "reward"], model=Paid(answer), budget="5000 calls")

    assert result.objectives == ("reward", "dollars")
    assert result.test is not None
    assert result.test.costs is not None
    # 10 dollars for a million tokens of input, 100 for output
    assert result.test.front[-1].means["dollars"] == pytest.approx(1000 * (10e-6 * 3 + 100e-6))
    assert result.test.front[0].means["dollars"] == pytest.approx(result.test.costs[1])


def polite(example: Example, response: Response) -> Any:
    right = float(response.text == example.target)
    return {
        "reward": right,
        "unease": -right,
        "brevity": 1 / response.usage.total if response.usage.total else 0,
    }, "said so"


def test_numbers_of_a_reward_are_objectives_and_higher_is_better(tmp_path: Path) -> None:
    task = replace(TASK, reward=polite)
    result = search(tmp_path, task=task, objectives="reward, brevity")

    assert set(front_texts(result)) >= {"Answer {text}", "help aid lift {text} now"}
    assert result.points[-1].means["brevity"] == pytest.approx(1 / 4, abs=0.02)
    assert [record.objectives["brevity"] for record in result.history[:2]] == pytest.approx([1 / 10, 1 / 4], abs=0.02)
    assert result.test is not None
    assert result.test.outcomes[0].seed.reason == "said so"


def test_without_objectives_further_numbers_change_nothing(tmp_path: Path) -> None:
    def alone(example: Example, response: Response) -> tuple[float, str]:
        return float(response.text == example.target), "said so"

    several, single = (
        optimize(replace(TASK, reward=reward), FakeModel(answer), Texts(), memo=tmp_path) for reward in (polite, alone)
    )
    assert several == single
    assert several.to_json().keys() == single.to_json().keys()
    assert "objectives" not in json.dumps(several.to_json())


def test_a_verdict_has_all_numbers_and_refuses_others() -> None:
    example = TASK.train[0]
    assert verdict(polite, example, Response("yes", usage=Usage(3, output=1))).named == {
        "unease": -1.0,
        "brevity": 0.25,
    }
    for value, culprit in (
        ({"brevity": 1.0}, "finite number"),
        ({"reward": 1.0, "brevity": float("nan")}, "finite number"),
        ({"reward": 1.0, "tokens": 3.0}, "'tokens'"),
    ):
        with pytest.raises(RewardError, match=culprit):
            verdict(lambda _, __, value=value: value, example, Response("yes"))  # type: ignore[misc]


def test_a_reply_without_a_number_ends_the_run_and_says_which(tmp_path: Path) -> None:
    def forgetful(example: Example, response: Response) -> dict[str, float]:
        named = {} if example.id == "train7" else {"brevity": 1.0}
        return {"reward": float(bool(response.text)), **named}

    result = search(tmp_path, task=replace(TASK, reward=forgetful), objectives="reward,brevity")

    assert "'brevity' for example 'train7'" in result.unfinished


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objectives": ("reward",)}, "at least one other"),
        ({"objectives": ("tokens", "dollars")}, "must be 'reward' and"),
        ({"objectives": ("reward", "latency")}, "clock"),
        ({"objectives": ("reward", "tokens", "tokens")}, "twice"),
        ({"objectives": ("reward", "a b")}, "'a b'"),
        ({"objectives": ("reward", 3)}, "3 cannot be"),
        ({"objectives": None, "prefer": "tokens"}, "there is no front"),
        ({"prefer": "speed"}, "'speed'.*not one of the objectives reward, tokens"),
        ({"prefer": "tokns"}, "tokens"),
        ({"prefer": "reward, tokens < 5"}, "cannot read the condition 'tokens < 5'"),
        ({"prefer": "reward, tokens >= 5"}, "write 'tokens <= 5'"),
        ({"prefer": "tokens, reward <= best - 0.1"}, "write 'reward >= best - 0.1'"),
        ({"prefer": "tokens, reward >= best + 0.1"}, "write 'reward >= best - 0.1'"),
        ({"objectives": ("reward", "dollars")}, "cost nothing"),
        ({"objectives": ("reward", "brevity")}, "Label returns the reward alone"),
        ({"objectives": ("reward", "brevty"), "task": replace(TASK, reward=polite)}, "'unease', 'brevity'"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_asked(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    def never(_: Request) -> str:
        raise AssertionError("the model was asked")

    with pytest.raises(InputError, match=said):
        search(tmp_path, model=FakeModel(never), **settings)


def test_dollars_need_a_known_price_and_one_model() -> None:
    aims = Objectives(("reward", "dollars"))
    with pytest.raises(InputError, match="price of the task model, which is unknown"):
        check_objectives(aims, TASK, None)
    program = replace(toys.PROGRAM_TASK, models={"small": FakeModel(answer)})
    with pytest.raises(InputError, match="one task model"):
        check_objectives(aims, program, Price(1.0, 1.0))
    check_objectives(aims, TASK, Price(1.0, 1.0))


def test_a_judge_gives_one_number() -> None:
    with pytest.raises(InputError, match="Judge returns the reward alone"):
        check_objectives(Objectives(("reward", "care")), replace(TASK, reward=Judge(FakeModel(answer), "good")), None)


def test_a_model_that_counts_no_tokens_is_refused_after_one_call(tmp_path: Path) -> None:
    asked: list[str] = []

    def silent(request: Request) -> str:
        asked.append(text_of(request))
        return "yes"

    with pytest.raises(InputError, match="needs token counts"):
        search(tmp_path, model=FakeModel(silent))
    assert len(asked) == 1


def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path, found: Result) -> None:
    class Killed(BaseException):
        pass

    done = 0

    def killed(request: Request) -> Response:
        nonlocal done
        done += 1
        if stop and done == stop:
            raise Killed
        return answer(request)

    for after in (50, 300, 200):
        done, stop = 0, after
        with pytest.raises(Killed):
            search(tmp_path, model=Named(killed))
    done, stop = 0, 0
    result = search(tmp_path, model=Named(killed))

    other = dict.fromkeys(("date", "models", "paid", "seconds"))
    assert result.to_json() | other == found.to_json() | other
    assert done < 0.3 * calls(result)  # the rest came from the memo


class Named(FakeModel):
    """A fake that the memo knows again, whatever its function has captured."""

    def __init__(self, handler: Any) -> None:
        super().__init__(handler)
        self.fingerprint = {"provider": "fake", "model": "named"}


@pytest.mark.parametrize("budget", [200, 420, 900])
def test_a_budget_is_kept_and_leaves_enough_for_the_test_of_the_front(tmp_path: Path, budget: int) -> None:
    task = replace(TASK, train=TASK.train[:12])
    many = Texts((*TEXTS, *(f"Answer {{text}} help {'x ' * n}" for n in range(1, 60))))
    result = search(tmp_path, task=task, strategy=many, budget=f"{budget} calls")

    assert calls(result) <= budget
    assert result.test is not None
    assert result.test.examples >= 8
    assert len(result.test.front) == len(result.points) > 1


def test_a_budget_too_small_for_the_front_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"at least 144 calls"):  # 2 x (40 + 8) and 6 x 8
        search(tmp_path, budget="143 calls")


def test_the_dry_run_plans_the_test_of_a_front(tmp_path: Path) -> None:
    planned = estimate(TASK, FakeModel(answer), Texts(), objectives="reward,tokens", memo=tmp_path)
    single = estimate(TASK, FakeModel(answer), Texts(), memo=tmp_path)

    tests = [sum(n.asked.calls for n in each.needs if n.stage == "test") for each in (planned, single)]
    assert tests[0] > 60
    assert tests[0] >= tests[1]


def test_a_result_with_a_front_is_saved_and_read_again(tmp_path: Path, found: Result) -> None:
    found.save(tmp_path / "result.json")
    again = Result.load(tmp_path / "result.json")

    assert again == found
    assert again.front == found.front
    assert again.front_rows() == found.front_rows()
    assert "simultaneous 95 % intervals" in again.headline
    assert f"{found.points[0].number} (recommended)" in str(again)


def test_objectives_are_part_of_what_identifies_a_run(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"prefer": "tokens"}, {"objectives": None}]
    for number, settings in enumerate(changes):
        if number:
            with pytest.raises(InputError, match="another run"):
                search(tmp_path / "memo", run_dir=tmp_path / "run", tracking=False, **settings)
        else:
            search(tmp_path / "memo", run_dir=tmp_path / "run", tracking=False)


def test_without_validation_the_front_is_the_searchs_and_without_test_nothing_is_claimed(tmp_path: Path) -> None:
    result = search(tmp_path, task=replace(TASK, validation=(), test=()))

    assert len(result.points) > 1
    assert any("no validation data: the front" in note for note in result.notes)
    assert "nothing is claimed" in result.headline


def test_a_run_whose_seed_prompt_is_best_keeps_it(tmp_path: Path) -> None:
    task = replace(TASK, seed_prompt=Prompt("help aid lift {text}"))
    result = search(tmp_path, task=task, strategy=Texts(("loss {text} and more words than that",)))

    assert result.kept
    assert "best in every objective: your prompt" in result.headline
    assert result.test is not None
    assert result.test.front[0].over_seed["tokens"] == (0.0, 0.0, 0.0)


def test_measuring_takes_costs_from_replies_and_none_from_failures() -> None:
    replies: list[list[list[Response | Failure]]] = [[[Response("a", usage=Usage(10, output=5))], [Failure("lost")]]]
    scores = Scores((Prompt("{text}"),), TASK.train[:2], np.array([[[1.0], [np.nan]]]), replies, [[[""], [""]]])

    values = measure(scores, ("reward", "tokens", "dollars"), Price(1.0, 2.0))
    assert values[:, 0, 0, 0].tolist() == pytest.approx([1.0, 15.0, 1000 * 20e-6])
    assert np.isnan(values[:, 0, 1, 0]).all()
    assert signs(("reward", "tokens", "x")).tolist() == [1.0, -1.0, 1.0]


def test_intervals_of_costs_are_wide_where_costs_vary() -> None:
    rng = np.random.default_rng(0)
    prompts = (Prompt("a {text}"), Prompt("b {text}"))
    written = rng.integers(1, 40, (2, 30))
    replies: list[list[list[Response | Failure]]] = [
        [[Response("", usage=Usage(5, output=int(n)))] for n in row] for row in written
    ]
    scores = Scores(prompts, TASK.train[:30], np.ones((2, 30, 1)), replies, [[[""]] * 30] * 2)

    (test,) = front_tests(scores, prompts[1:], ("reward", "tokens"), None)
    assert test.over_seed["tokens"].low < test.over_seed["tokens"].estimate - 1
    assert test.over_seed["reward"].low < 0 < test.over_seed["reward"].high  # never differed, and may


def archive_of(values: dict[str, tuple[float, float]], examples: int = 4) -> Archive:
    archive = Archive(("tokens",))
    for text, (reward, tokens) in values.items():
        shape = (1, examples, 1)
        archive.add([Prompt(text)], TASK.train[:examples], np.full(shape, reward), None, np.full((1, *shape), tokens))
    return archive


def test_the_archive_keeps_a_front() -> None:
    archive = archive_of({"a": (0.5, 10), "b": (0.9, 30), "c": (0.4, 20), "d": (0.9, 40), "e": (0.1, 1)})

    assert [candidate.prompt.text for candidate in archive.front()] == ["b", "a", "e"]
    assert [p.text for p in archive.ahead([Prompt("b"), Prompt("c"), Prompt("e")], Prompt("a"), TASK.train)] == [
        "b",
        "e",
    ]
    assert archive_of({}).front() == []


def test_without_objectives_the_front_is_the_best() -> None:
    archive = Archive()
    for text, reward in (("a", 0.2), ("b", 0.7)):
        archive.add([Prompt(text)], TASK.train[:2], np.full((1, 2, 1), reward))

    assert [candidate.prompt.text for candidate in archive.front()] == ["b"]


def test_prompts_on_other_examples_are_compared_fairly() -> None:
    """One prompt ran on the long examples only: its tokens are not held against it."""
    archive = Archive(("tokens",))
    long, short = TASK.train[:4], TASK.train[4:8]
    length = {example.id: (100.0 if example in long else 10.0) for example in TASK.train}
    for text, extra, examples in (("a", 5.0, (*long, *short)), ("b", 0.0, long)):
        tokens = np.array([[[length[example.id] + extra] for example in examples]])
        archive.add([Prompt(text)], examples, np.full(tokens.shape, 0.5), None, tokens[None])

    assert [candidate.prompt.text for candidate in archive.front()] == ["b"]


def test_the_shortlist_spans_the_front() -> None:
    values = {f"p{n}": (n / 20, 10.0 + n) for n in range(20)} | {"seed": (0.5, 100.0)}
    listed = front_shortlist(archive_of(values), Prompt("seed"), 3)

    assert [prompt.text for prompt in listed] == ["p19", "p0", "p9"]


def writer(request: Request) -> str:
    """Adds a helpful word to the first prompt shown, or takes a word away."""
    shown = [t for t in re.findall(r"<prompt>(.*?)</prompt>", text_of(request), flags=re.DOTALL) if "{text}" in t]
    words = (shown or ["{text}"])[0].split()
    out = [[*words, word] for word in (*GOOD, "well", "now")]
    out += [words[:i] + words[i + 1 :] for i, word in enumerate(words) if word != "{text}"]
    order = sorted(out, key=lambda new: chance(f"{request.replicate} {new}"))
    return "\n".join(f"<prompt>{' '.join(new)}</prompt>" for new in order[:8])


def test_hill_climbing_draws_parents_from_the_front(tmp_path: Path) -> None:
    settings = {"strategy": HillClimb(restarts=1, iterations=30, patience=0), "writer": FakeModel(writer)}
    several = search(tmp_path, **settings, budget="3000 calls")
    single = search(tmp_path, **settings, budget="3000 calls", objectives=None)

    parents = {record.parent for record in several.history if record.parent is not None}
    made_from = [several.history[number] for number in parents]
    # Cheap prompts with a low reward are parents too, and the front reaches from the cheapest prompt to a good one.
    assert min(record.objectives["tokens"] or 0 for record in made_from) < 6
    assert several.points[-1].means["tokens"] == pytest.approx(3, abs=0.5)
    assert (several.points[0].means["reward"] or 0) > 0.6
    assert min(len(record.prompt.text.split()) for record in several.history) <= min(
        len(record.prompt.text.split()) for record in single.history
    )


def test_the_writer_is_told_what_counts(tmp_path: Path) -> None:
    seen: list[str] = []

    def told(request: Request) -> str:
        seen.append(text_of(request))
        return writer(request)

    strategy = HillClimb(restarts=1, iterations=1)
    search(tmp_path, strategy=strategy, writer=FakeModel(told), budget="600 calls")
    assert all("short prompts and short replies" in text for text in seen if "Reply with the word" not in text)
    seen.clear()
    search(tmp_path, strategy=strategy, writer=FakeModel(told), budget="600 calls", objectives=None)
    assert not any("short prompts and short replies" in text for text in seen)


def test_a_scored_prompt_is_measured_once(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        scorer = Scorer(TASK, FakeModel(answer), Caller(memo, Ledger()))
        run = Run(TASK, np.random.default_rng(0), 0, scorer, archive=Archive(("tokens",)))
        run.score([Prompt("Answer {text}")])

    assert run.objectives == ("reward", "tokens")
    assert run.archive.objective_values([Prompt("Answer {text}")])[1].tolist() == [[-4.0] * 40]
