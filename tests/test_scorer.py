from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from promptopt import (
    Arrival,
    Exact,
    Example,
    Failure,
    FakeLabelModel,
    FakeModel,
    InputError,
    Judge,
    Label,
    LabelMargin,
    Memo,
    Message,
    Prompt,
    Request,
    Response,
    Task,
)
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from promptopt import Model, Reward
    from promptopt.prompt import Context

MOOD = ("bad", "good")
ITEMS = tuple(Example({"text": name}, MOOD[i % 2], name) for i, name in enumerate(("dull", "fine", "grey")))
PROMPTS = (Prompt("A {text}"), Prompt("B {text}"))


class Flaky(FakeModel):
    """A fake that fails where its handler gives a failure."""

    def __init__(self, handler: Callable[[str], str | Failure]) -> None:
        super().__init__(said_to, "flaky")
        self.reply = handler

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        for number, request in enumerate(requests):
            said = self.reply(said_to(request))
            yield Arrival(number, Response(said) if isinstance(said, str) else said)


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    with Memo(tmp_path) as memo:
        yield memo


def said_to(request: Request) -> str:
    return request.context if isinstance(request.context, str) else request.context[-1].content


def constant(value: Any) -> Callable[[Example, Response], Any]:
    def reward(example: Example, response: Response) -> Any:
        return value

    return reward


def scorer(memo: Memo, model: Model, **settings: Any) -> Scorer:
    settings = {"format": "completion", **settings}
    return Scorer(Task(train=ITEMS, seed_prompt=PROMPTS[0], **settings), model, Caller(memo, Ledger()))


# ---------------------------------------------------------------- shape and order


def test_rewards_stand_by_prompt_example_and_replicate(memo: Memo) -> None:
    prompts = (*PROMPTS, Prompt("C {text}"), Prompt("D {text}"))

    def reward(example: Example, response: Response) -> tuple[float, str]:
        prompt, item, replicate = response.text.split()
        assert item == example.id
        return 100 * "ABCD".index(prompt) + 10 * ITEMS.index(example) + int(replicate), response.text

    model = FakeModel(lambda request: f"{said_to(request)} {request.replicate}")
    scores = scorer(memo, model, reward=reward).score(prompts, ITEMS, 2)

    assert scores.rewards.tolist() == [[[100 * p + 10 * e + r for r in range(2)] for e in range(3)] for p in range(4)]
    assert scores.rewards.dtype == np.float64
    assert (scores.prompts, scores.examples) == (prompts, ITEMS)
    assert scores.reasons[3][2][1] == "D grey 1"
    reply = scores.replies[1][0][1]
    assert isinstance(reply, Response)
    assert reply.text == "B dull 1"


def test_the_model_is_asked_as_the_task_says(memo: Memo) -> None:
    asked: list[Request] = []

    def handler(request: Request) -> str:
        asked.append(request)
        return "good"

    settings: dict[str, Any] = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop": ("\n",)}
    made = scorer(memo, FakeModel(handler), format="chat", **settings)
    made.score([Prompt("Be kind.")], ITEMS[:1], 2)

    turns = (Message("system", "Be kind."), Message("user", "dull"))
    assert asked == [Request(context=turns, replicate=r, **settings) for r in range(2)]


def test_replicates_of_a_text_are_samples_of_their_own(memo: Memo) -> None:
    samples = iter(["good", "bad", "good", "bad"])
    scores = scorer(memo, FakeModel(lambda _: next(samples)), labels=MOOD).score(PROMPTS[:1], ITEMS[1:2], 4)

    assert scores.rewards.tolist() == [[[1, 0, 1, 0]]]
    assert scores.mean.tolist() == [0.5]


@pytest.mark.parametrize(("prompts", "examples", "replicates"), [((), ITEMS, 1), (PROMPTS, (), 1), (PROMPTS, ITEMS, 0)])
def test_nothing_to_score_is_refused(
    memo: Memo, prompts: tuple[Prompt, ...], examples: tuple[Example, ...], replicates: int
) -> None:
    with pytest.raises(InputError, match=f"nothing to score: {len(prompts)} prompts, {len(examples)} examples"):
        scorer(memo, FakeModel(said_to)).score(prompts, examples, replicates)


# ---------------------------------------------------------------- labels


def likely(context: Context, labels: Sequence[str]) -> list[float]:
    """Sure of "good" under prompt A, of "bad" under B."""
    wanted = "good" if str(context).startswith("A") else "bad"
    return [math.log(0.9) if label == wanted else math.log(0.1) for label in labels]


def test_a_label_model_scores_labels_and_is_asked_for_no_text(memo: Memo) -> None:
    made = scorer(memo, FakeLabelModel(likely), labels=MOOD)
    scores = made.score(PROMPTS, ITEMS)

    assert scores.rewards[:, :, 0].tolist() == [[0, 1, 0], [1, 0, 1]]
    reply = scores.replies[0][0][0]
    assert isinstance(reply, Response)
    assert reply.label_logprobs == pytest.approx((math.log(0.1), math.log(0.9)))


@pytest.mark.parametrize("reward", [Label, LabelMargin])
def test_a_reward_may_list_the_labels_in_any_order(memo: Memo, reward: Callable[[tuple[str, ...]], Reward]) -> None:
    plain = scorer(memo, FakeLabelModel(likely), labels=MOOD, reward=reward(MOOD))
    turned = scorer(memo, FakeLabelModel(likely), labels=MOOD, reward=reward(MOOD[::-1]))
    by_model, by_memo = (plain.score(PROMPTS, ITEMS).rewards for _ in range(2))

    assert by_model.tolist() == by_memo.tolist() == turned.score(PROMPTS, ITEMS).rewards.tolist()


def test_a_default_reward_follows_the_labels_of_a_changed_task(memo: Memo) -> None:
    task = Task(train=ITEMS, seed_prompt=PROMPTS[0], labels=MOOD)
    for labels in (MOOD[::-1], ("good", "fair", "bad")):
        changed = scorer(memo, FakeLabelModel(lambda *asked: [-1.0 - (x != "good") for x in asked[1]]), labels=MOOD)
        changed.task = replace(task, labels=labels)
        assert changed.score(PROMPTS[:1], ITEMS).mean.tolist() == pytest.approx([1 / 3])


def test_without_logprobs_a_label_models_labels_are_read_from_what_it_writes(memo: Memo) -> None:
    made = scorer(memo, FakeLabelModel(likely), labels=MOOD, logprobs=False)
    (reply,) = made.score([Prompt("say good: {text}")], ITEMS[:1]).replies[0][0]

    assert isinstance(reply, Response)
    assert reply.label_logprobs is None
    assert "say good" in reply.text


def test_label_replicates_are_one_call(memo: Memo) -> None:
    made = scorer(memo, FakeLabelModel(likely), labels=MOOD)
    scores = made.score(PROMPTS, ITEMS, 3)

    assert scores.rewards.shape == (2, 3, 3)
    assert (scores.rewards == scores.rewards[:, :, :1]).all()
    assert made.caller.ledger.logical["task"].calls == 6


def test_without_labels_a_label_model_writes(memo: Memo) -> None:
    made = scorer(memo, FakeLabelModel(likely), reward=lambda _, response: len(response.text))

    assert made.score(PROMPTS, ITEMS[:1]).rewards.tolist() == [[[len("A dull")]], [[len("B dull")]]]


def test_a_text_model_votes(memo: Memo) -> None:
    made = scorer(memo, FakeModel(lambda request: "It is good." if "A" in said_to(request) else "Hm."), labels=MOOD)
    scores = made.score(PROMPTS, ITEMS)

    assert all(
        reply.label_logprobs is None for row in scores.replies for (reply,) in row if isinstance(reply, Response)
    )
    assert scores.rewards[:, :, 0].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert scores.reasons[0][0][0] == "said good, wanted bad"


def test_another_reward_may_be_met_by_the_same_replies(memo: Memo) -> None:
    made = scorer(memo, FakeLabelModel(likely), labels=MOOD)
    margin = made.score(PROMPTS, ITEMS, reward=LabelMargin(MOOD))
    own = made.apply_reward(margin.prompts, ITEMS, margin.replies, Label(MOOD))

    assert margin.rewards[0, :, 0].tolist() == pytest.approx([-0.8 * 180, 0.8 * 200, -0.8 * 180])
    assert own.rewards.tolist() == made.score(PROMPTS, ITEMS).rewards.tolist()


# ---------------------------------------------------------------- failures and rewards


def test_a_failure_is_no_number_with_its_reason_and_never_zero(memo: Memo) -> None:
    model = Flaky(lambda said: Failure("timed out") if said == "A fine" else said)
    scores = scorer(memo, model, reward=constant(1.0)).score(PROMPTS, ITEMS)

    assert np.isnan(scores.rewards[:, :, 0]).tolist() == [[False, True, False], [False] * 3]
    assert scores.reasons[0][1][0] == "timed out"
    assert scores.replies[0][1][0] == Failure("timed out")
    assert scores.failed == 1
    assert scores.mean.tolist() == [1, 1]
    assert scores.paired_difference(0, 1).tolist() == [0, 0]


@pytest.mark.parametrize("value", [1, 1.0, True, np.float32(1), np.int64(1), (1, ""), (1.0, "well said")])
def test_any_number_alone_or_with_words_is_a_reward(memo: Memo, value: Any) -> None:
    scores = scorer(memo, FakeModel(said_to), reward=constant(value)).score(PROMPTS, ITEMS)

    assert (scores.rewards == 1).all()
    assert scores.reasons[0][0][0] == (value[1] if isinstance(value, tuple) else "")


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, "0.5", None, (math.nan, "why"), (), (1.0,), (1.0, "why", "more"), np.array([1.0])]
)
def test_a_reward_that_is_no_number_names_the_example(memo: Memo, value: Any) -> None:
    def reward(example: Example, response: Response) -> Any:
        return value if example.id == "fine" else 1.0

    with pytest.raises(InputError, match=r"reward .* returned .* for example 'fine': return a finite number"):
        scorer(memo, FakeModel(said_to), reward=reward).score(PROMPTS, ITEMS)


def test_a_target_that_is_missing_names_the_example(memo: Memo) -> None:
    unlabelled = Example({"text": "new"}, None, "new")
    with pytest.raises(InputError, match="example 'new' has no target"):
        scorer(memo, FakeModel(said_to), reward=Exact()).score(PROMPTS, [*ITEMS, unlabelled])


# ---------------------------------------------------------------- judges


def judging(verdicts: dict[str, str | Failure]) -> Judge:
    """A judge whose verdict is that of the first word which the reply holds."""

    def handler(said: str) -> str | Failure:
        reply = said.partition("Reply to grade:\n")[2].partition("\n")[0]
        return next(verdict for word, verdict in verdicts.items() if word in reply)

    return Judge(Flaky(handler), "Be kind.")


def test_a_judges_verdicts_are_rewards_and_its_calls_are_its_own(memo: Memo) -> None:
    judge = judging({"dull": "Rude.\nScore: 2", "": "Kind.\nScore: 9"})
    made = scorer(memo, FakeModel(said_to), reward=judge)
    scores = made.score(PROMPTS, ITEMS)

    assert scores.rewards[:, :, 0].tolist() == [[0.2, 0.9, 0.9]] * 2
    assert scores.reasons[0][0][0] == "Rude.\nScore: 2"
    ledger = made.caller.ledger
    assert {role: spent.calls for role, spent in ledger.logical.items()} == {"task": 6, "judge": 6}

    assert made.score(PROMPTS, ITEMS).rewards.tolist() == scores.rewards.tolist()
    assert ledger.paid["judge"].calls == 6


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        ("I cannot say.", "no score in: I cannot say."),
        ("Score: 11", "no score in: Score: 11"),
        (Failure("busy"), "busy"),
    ],
)
def test_a_verdict_without_a_score_is_a_failed_cell(memo: Memo, verdict: str | Failure, reason: str) -> None:
    made = scorer(memo, FakeModel(said_to), reward=judging({"fine": verdict, "": "Score: 5"}))
    scores = made.score(PROMPTS[:1], ITEMS)

    assert scores.rewards[0, [0, 2], 0].tolist() == [0.5, 0.5]
    assert math.isnan(scores.rewards[0, 1, 0])
    assert scores.reasons[0][1][0] == reason


def test_a_reply_that_failed_is_not_judged(memo: Memo) -> None:
    model = Flaky(lambda said: Failure("timed out") if "fine" in said else said)
    made = scorer(memo, model, reward=judging({"": "Score: 10"}))
    scores = made.score(PROMPTS[:1], ITEMS)

    assert scores.rewards[0, [0, 2], 0].tolist() == [1, 1]
    assert scores.reasons[0][1][0] == "timed out"
    assert made.caller.ledger.logical["judge"].calls == 2
