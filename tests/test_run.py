from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from promptopt import (
    Arrival,
    BudgetExhaustedError,
    Demonstrations,
    Example,
    Failure,
    FakeLabelModel,
    FakeModel,
    InputError,
    Judge,
    LabelMargin,
    Memo,
    Message,
    Prompt,
    Request,
    Response,
    Run,
    Scores,
    Task,
)
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.racing import race
from promptopt.evaluation.scorer import Scorer
from promptopt.randomness import named_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from promptopt import Model

ITEMS = tuple(Example({"text": f"item{i}"}, "yes", f"e{i}") for i in range(40))
ASK = (Message("user", "Write."),)
P, Q, R = Prompt("P {text}"), Prompt("Q {text}"), Prompt("R {text}")


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    with Memo(tmp_path) as memo:
        yield memo


def said_to(request: Request) -> str:
    return str(request.context)


def always_yes(request: Request) -> str:
    return "yes"


def a_run(
    memo: Memo,
    model: Model | None = None,
    *,
    writer: Model | None = None,
    seed: int = 0,
    calls: float | None = None,
    **settings: Any,
) -> Run:
    task = Task(**{"train": ITEMS[:4], "seed_prompt": P, "format": "completion", **settings})
    caller = Caller(memo, Ledger(Budget(calls=calls)))
    scorer = Scorer(task, model or FakeModel(always_yes), caller)
    return Run(task, named_generator(seed, "test"), seed, scorer, writer)


def calls_of(run: Run) -> dict[str, int]:
    return {role: spent.calls for role, spent in run.ledger.logical.items()}


# ---------------------------------------------------------------- history


def test_candidates_are_numbered_as_they_appear_with_parent_and_step(memo: Memo) -> None:
    run = a_run(memo)
    run.score([P])
    run.step(best=1.0)
    run.score([Q, P, R], parents=[P, None, Prompt("unseen {text}")])
    run.step(best=1.0)
    run.score([Q], parents=[R])

    assert [(c.number, c.prompt, c.parent, c.step) for c in run.archive.values()] == [
        (0, P, None, 0),
        (1, Q, 0, 1),
        (2, R, None, 1),
    ]
    assert run.steps == [{"best": 1.0}, {"best": 1.0}]


def test_a_prompt_may_be_the_child_of_one_scored_beside_it(memo: Memo) -> None:
    run = a_run(memo)
    run.score([P, Q], parents=[None, P])

    assert run.archive[Q].parent == 0


def test_means_are_over_distinct_cells(memo: Memo) -> None:
    def right_on_even(request: Request) -> str:
        return "yes" if int(said_to(request)[-1]) % 2 == 0 else "no"

    run = a_run(memo, FakeModel(right_on_even))
    run.score([P], ITEMS[:1])
    run.score([P], ITEMS[:1])
    run.score([P], ITEMS[:4])
    run.score([P], ITEMS[:2], replicates=2)

    candidate = run.archive[P]
    assert candidate.cells == 6
    assert candidate.fitness == candidate.reward == pytest.approx(3 / 6)


def test_a_search_by_another_reward_keeps_the_tasks_own_beside_it(memo: Memo) -> None:
    labels = ("yes", "no")
    model = FakeLabelModel(lambda context, _: [math.log(0.7), math.log(0.3)] if "Q" in context else [-9.0, 0.0])
    run = a_run(memo, model, labels=labels)
    scores = run.score([P, Q], reward=LabelMargin(labels))

    assert scores.mean.tolist() == [run.archive[P].fitness, run.archive[Q].fitness]
    assert run.archive[Q].fitness == pytest.approx(0.4 * 200)
    assert (run.archive[P].reward, run.archive[Q].reward) == (0, 1)


def test_a_judges_reward_is_unknown_until_the_judge_was_asked(memo: Memo) -> None:
    labels = ("yes", "no")
    judge = Judge(FakeModel(lambda _: "Fine. Score: 7", "judge"), "good")
    run = a_run(memo, FakeLabelModel(lambda *_: [math.log(0.7), math.log(0.3)]), labels=labels, reward=judge)
    run.score([P], reward=LabelMargin(labels))

    assert run.archive[P].fitness == pytest.approx(0.4 * 200)
    assert run.archive[P].examples == 0
    assert math.isnan(run.archive[P].reward)
    run.score([P], ITEMS[:2])
    assert run.archive[P].fitness == pytest.approx(0.4 * 200)
    assert run.archive[P].reward == pytest.approx(0.7)
    assert run.archive[P].examples == 2


def test_a_failed_cell_is_in_no_mean_and_counts_as_failed_until_it_comes(memo: Memo) -> None:
    class Breaking(FakeModel):
        broken = True

        def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
            for number, request in enumerate(requests):
                fails = self.broken and "item1" in said_to(request)
                yield Arrival(number, Failure("busy") if fails else Response("yes"))

    model = Breaking(always_yes)
    run = a_run(memo, model)
    for _ in range(2):
        scores = run.score([P])
        candidate = run.archive[P]
        assert scores.failed == 1
        assert (candidate.fitness, candidate.cells, candidate.failed) == (1.0, 3, 1)

    model.broken = False
    run.score([P])
    assert (candidate.cells, candidate.failed) == (4, 0)


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize("calls", range(1, 25))
def test_the_end_of_a_budget_scores_as_many_prompts_as_it_pays_for(memo: Memo, calls: int) -> None:
    class Counting(FakeModel):
        batches = 0

        def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
            self.batches += 1
            return super().generate(requests)

    prompts, model = [Prompt(f"{i} {{text}}") for i in range(6)], Counting(always_yes)
    run = a_run(memo, model, calls=calls)
    if calls >= 24:
        assert run.score(prompts).prompts == tuple(prompts)
    else:
        with pytest.raises(BudgetExhaustedError):
            run.score(prompts)

    assert list(run.archive) == prompts[: calls // 4]
    assert all(candidate.cells == 4 for candidate in run.archive.values())
    assert calls_of(run).get("task", 0) == 4 * (calls // 4)
    assert model.batches == (calls >= 4)  # asked first, so all together


@pytest.mark.parametrize("calls", [3, 4, 9, 12])
def test_the_end_of_a_budget_asks_for_as_many_label_probabilities_as_it_pays_for(memo: Memo, calls: int) -> None:
    run = a_run(memo, calls=calls, labels=("yes", "no"))
    prompts = [Prompt(f"{i} {{text}}") for i in range(3)]
    if calls >= 12:
        assert run.label_probabilities(prompts).shape == (3, 4, 2)
    else:
        with pytest.raises(BudgetExhaustedError):
            run.label_probabilities(prompts)

    assert calls_of(run).get("task", 0) == 4 * (calls // 4)
    assert run.label_probabilities(prompts[: calls // 4] or prompts, ITEMS[: 4 * (calls >= 4)] or ITEMS[:1]).size


def test_a_narrowed_run_repeats_the_votes_for_label_probabilities_too(memo: Memo) -> None:
    run = a_run(memo, labels=("yes", "no"))
    run.restricted_to(ITEMS[:2], repeats=3).label_probabilities([P], replicates=2)

    assert calls_of(run) == {"task": 2 * 3 * 2}


def test_label_probabilities_of_no_items_are_refused(memo: Memo) -> None:
    run = a_run(memo, labels=("yes", "no"))
    with pytest.raises(InputError, match="nothing to score: 1 prompts, 0 examples"):
        run.label_probabilities([P], [])

    assert calls_of(run) == {}


def test_prompts_scored_before_are_scored_beyond_the_budget(memo: Memo) -> None:
    run = a_run(memo, calls=4)
    run.score([P])

    assert run.score([P]).mean.tolist() == [1.0]
    with pytest.raises(BudgetExhaustedError, match="budget exhausted: 1 of 2 prompts scored"):
        run.score([P, Q])


# ---------------------------------------------------------------- racing


def test_a_race_drops_losers_and_pairs_the_others(memo: Memo) -> None:
    wrong = {"P": 0, "Q": 1, "R": 20}

    def handler(request: Request) -> str:
        prompt, item = said_to(request).split()
        return "no" if int(item.removeprefix("item")) < wrong[prompt] else "yes"

    run = a_run(memo, FakeModel(handler), train=ITEMS)
    end = run.race([R, P, Q], top_k=2)

    assert end.survivors == [1, 2]
    assert end.scores.prompts == (P, Q)
    assert end.scores.examples == ITEMS
    assert end.scores.mean.tolist() == [1.0, 39 / 40]
    assert len(end.scores.paired_difference(0, 1)) == 40
    assert run.archive[R].cells < 40
    assert calls_of(run)["task"] == 80 + run.archive[R].cells


def test_blocks_double_and_end_with_all_items() -> None:
    sizes = []

    def score(prompts: Sequence[Prompt], examples: Sequence[Example]) -> Scores:
        assert tuple(examples) == ITEMS[: len(examples)]
        sizes.append(len(examples))
        return scores_of(prompts, examples, lambda *_: 1.0)

    end = race(score, [P, Q], ITEMS, 0.95)

    assert sizes == [8, 16, 32, 40]
    assert end.survivors == [0, 1]
    assert end.scores.rewards.shape == (2, 40, 1)


def scores_of(
    prompts: Sequence[Prompt], examples: Sequence[Example], value: Callable[[Prompt, Example], float]
) -> Scores:
    rewards = np.array([[[value(prompt, example)] for example in examples] for prompt in prompts])
    cells = [[[Response("")] for _ in examples] for _ in prompts]
    return Scores(tuple(prompts), tuple(examples), rewards, cells, [[[""] for _ in examples] for _ in prompts])


def test_nobody_comes_back_once_dropped() -> None:
    def score(prompts: Sequence[Prompt], examples: Sequence[Example]) -> Scores:
        # Q fails early and would be perfect later; P is right on all but one in four.
        late = len(examples) > 8
        return scores_of(
            prompts, examples, lambda prompt, example: float(late or example.id > "e5") if prompt == Q else 0.9
        )

    end = race(score, [P, Q, R], ITEMS, 0.95)

    assert end.survivors == [0, 2]
    assert end.scores.prompts == (P, R)


def test_a_race_whose_budget_ends_keeps_the_blocks_that_were_run(memo: Memo) -> None:
    run = a_run(memo, train=ITEMS, calls=2 * 16 + 15)
    end = run.race([P, Q])

    assert end.survivors == [0, 1]
    assert len(end.scores.examples) == 16
    assert calls_of(run)["task"] <= 47


def test_a_race_that_cannot_begin_says_so(memo: Memo) -> None:
    with pytest.raises(BudgetExhaustedError):
        a_run(memo, train=ITEMS, calls=7).race([P, Q])
    with pytest.raises(InputError, match="a race needs at least one example"):
        a_run(memo).race([P], [])


# ---------------------------------------------------------------- writing


def echo(request: Request) -> str:
    return f"{request.context[-1][1]} {request.replicate}"


def test_the_writer_gives_new_samples_when_asked_again_and_for_another_seed(memo: Memo) -> None:
    first, second = a_run(memo, writer=FakeModel(echo)), a_run(memo, writer=FakeModel(echo), seed=1)
    texts = [*first.write(ASK, count=3), *first.write(ASK, count=2), *second.write(ASK, count=3)]

    assert len(set(texts)) == 8
    assert all(text.startswith("Write. ") for text in texts)
    assert calls_of(first) == {"writer": 5}


def test_a_repeated_run_is_given_the_same_samples_for_nothing(memo: Memo) -> None:
    first, again = a_run(memo, writer=FakeModel(echo)), a_run(memo, writer=FakeModel(echo))
    other = (Message("user", "Again."),)

    def ask(run: Run) -> list[str]:
        return [*run.write(ASK), *run.write(other), *run.write(ASK, count=2)]

    assert ask(first) == ask(again)
    assert again.ledger.paid == {}


def test_texts_that_failed_or_are_not_whole_are_left_out(memo: Memo) -> None:
    replies: list[Response | Failure] = [
        Response("one"),
        Failure("busy"),
        Response("two, cut of", finish_reason="length"),
        Response("no", finish_reason="refusal"),
        Response("three"),
    ]

    class Writer(FakeModel):
        def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
            yield from (Arrival(request.replicate, replies[request.replicate]) for request in requests)

    assert a_run(memo, writer=Writer(echo)).write(ASK, count=5) == ["one", "three"]


def test_the_writer_is_asked_as_told(memo: Memo) -> None:
    asked: list[Request] = []

    def handler(request: Request) -> str:
        asked.append(request)
        return "x"

    a_run(memo, writer=FakeModel(handler)).write(ASK, max_tokens=9, temperature=0.3)

    assert [(r.context, r.max_tokens, r.temperature) for r in asked] == [(ASK, 9, 0.3)]


def test_writing_without_a_writer_says_the_mend(memo: Memo) -> None:
    with pytest.raises(InputError, match="give writer=, or --writer"):
        a_run(memo).write(ASK)


# ---------------------------------------------------------------- tokens and steps


class Characters(FakeModel):
    """A model whose tokens are characters."""

    def pieces(self, text: str) -> list[str]:
        return list(text)


def test_tokens_are_the_models_own_where_it_has_any(memo: Memo) -> None:
    assert a_run(memo).tokens(P).pieces == ("P", " ", "{text}")
    assert a_run(memo, Characters(always_yes)).tokens(Prompt("ab{text}")).pieces == ("a", "b", "{text}")


def test_a_length_is_that_of_the_prompt_with_its_demonstrations(memo: Memo) -> None:
    run = a_run(memo, Characters(always_yes))
    shown = Prompt("{text}:", Demonstrations((ITEMS[0],)))

    assert run.length(Prompt("ab {text}")) == len("ab {text}")
    assert run.length(shown) == len("item0: yes\n\n{text}:")
    nearest, all_three = (Prompt("{text}:", Demonstrations(ITEMS[:3], nearest=k)) for k in (1, None))
    assert run.length(nearest) == len("{text}:") + round((run.length(all_three) - len("{text}:")) / 3)
    assert a_run(memo).length(Prompt("one two")) == len(["one", " two", "\n\n{", "text", "}"])


def test_steps_keep_plain_values(memo: Memo) -> None:
    run = a_run(memo)
    run.step(best=np.float32(0.5), length=np.int64(3), worst=-math.inf, mean=math.nan, what="x")  # type: ignore[arg-type]

    assert run.steps == [{"best": 0.5, "length": 3, "worst": None, "mean": None, "what": "x"}]
    assert [type(value) for value in run.steps[0].values()][:2] == [float, int]


def test_progress_is_watched_at_each_score_and_step(memo: Memo) -> None:
    seen: list[tuple[int, int]] = []
    run = replace(a_run(memo), watch=lambda run: seen.append((len(run.archive), len(run.steps))))
    run.score([P])
    run.step(best=1.0)
    run.with_own_archive().score([Prompt("another")])  # is shown as a part of the run

    assert seen == [(1, 0), (1, 1), (1, 1)]


def test_former_names_of_a_run_warn_and_work(memo: Memo) -> None:
    run = a_run(memo)
    with pytest.warns(DeprecationWarning, match="restricted_to"):
        assert run.on(run.task.train[:1]).task.train == run.task.train[:1]
    with pytest.warns(DeprecationWarning, match="archive"):
        assert run.history is run.archive
    with pytest.warns(DeprecationWarning, match="with_own_archive"):
        assert run.aside().archive == {}
    with pytest.warns(DeprecationWarning, match="top_k"):
        run.race([Prompt("A {text}")], places=1)
