from __future__ import annotations

import math
import re
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import toys

from promptopt import (
    Arrival,
    Budget,
    Contains,
    Example,
    Failure,
    FakeModel,
    FinalModelError,
    HillClimb,
    InputError,
    Judge,
    Memo,
    PassingModelError,
    Price,
    Prompt,
    PromptQuine,
    RandomSearch,
    Request,
    Response,
    Result,
    Run,
    Task,
    Usage,
    optimize,
)
from promptopt.evaluation.caller import Caller
from promptopt.evaluation.ledger import Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.optimization.claim import compare
from promptopt.optimization.job import Job
from promptopt.optimization.selection import choose, shortlist
from promptopt.replies import NO_USAGE
from promptopt.results.outcomes import read_outcomes, write_outcomes
from promptopt.scores import groups_of
from promptopt.search.archive import Archive, Candidate
from promptopt.search.tokens import words
from promptopt.statistics import clustered_interval, clustered_standard_error, mean_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from promptopt import Strategy

SEARCH = RandomSearch(prompts=24, batch=8)
SEED = Prompt("Answer {text} plainly")
FREE = Price(0.0, 0.0)


@dataclass(frozen=True)
class Fixed:
    """A strategy that scores the prompts that it is given."""

    writes: ClassVar[bool] = False

    texts: tuple[str, ...]

    def search(self, run: Run) -> None:
        for text in self.texts:
            run.score([Prompt(text)])


@dataclass
class Watched:
    """A model that writes down which items it saw, and does what `before` says at each call."""

    handler: Callable[[Request], str | Failure] = toys.answer
    before: Callable[[int], None] = lambda _: None
    price: Price | None = FREE
    usage: Usage = NO_USAGE
    unit: Any = "reply"
    fingerprint: Mapping[str, Any] = field(default_factory=lambda: {"provider": "watched"})
    asked: list[tuple[Any, int]] = field(default_factory=list)

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:
        for number, request in enumerate(requests):
            self.before(len(self.asked))
            reply = self.handler(request)
            self.asked.append((request.context, request.replicate))
            yield Arrival(number, reply if isinstance(reply, Failure) else Response(reply, usage=self.usage))

    @property
    def splits(self) -> list[str]:
        """The split of each call's item, in the order of the calls."""
        return [re.findall(r"(train|validation|test)\d+", toys.text_of(context))[-1] for context, _ in self.asked]


def a_task(train: int = 12, validation: int = 24, test: int = 24, **settings: Any) -> Task:
    """Like the toys' task, with the split's name in each item."""

    def items(split: str, count: int) -> tuple[Example, ...]:
        return tuple(Example({"text": f"{split}{i} item{i}"}, toys.LABELS[i % 2], f"{split}{i}") for i in range(count))

    return Task(
        **{
            "train": items("train", train),
            "validation": items("validation", validation),
            "test": items("test", test),
            "seed_prompt": Prompt(toys.SEED),
            "labels": toys.LABELS,
            **settings,
        }
    )


def search(
    memo: Path | Memo, model: Any = None, strategy: Strategy | str = SEARCH, task: Task | None = None, **settings: Any
) -> Result:
    return optimize(
        task or a_task(),
        model or Watched(),
        strategy,
        memo=memo,
        **{"writer": FakeModel(toys.writer, "w"), "budget": "5000 calls", **settings},
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, list[str]]:
    """A search that nothing disturbs, and the splits of its calls."""
    model = Watched()
    return search(tmp_path_factory.mktemp("calm"), model), model.splits


def calls(result: Result) -> int:
    return sum(spent.calls for spent in result.used.values())


# ---------------------------------------------------------------- preflight


@pytest.mark.parametrize("price", [None, Price(1.0, 0.0)])
@pytest.mark.parametrize("role", ["task", "writer"])
def test_a_model_that_costs_needs_a_budget(tmp_path: Path, price: Price | None, role: str) -> None:
    models = {"task": Watched(), "writer": Watched(toys.writer)}
    models[role].price = price
    with pytest.raises(InputError, match=f"the {role} model costs money and no budget is set: set one"):
        search(tmp_path, models["task"], writer=models["writer"], budget=None)

    assert models["task"].asked == models["writer"].asked == []


def test_a_free_model_needs_no_budget(tmp_path: Path) -> None:
    assert search(tmp_path, budget=None).finished


@pytest.mark.parametrize("role", ["task", "writer", "judge"])
def test_a_budget_in_dollars_needs_every_price_before_any_call(tmp_path: Path, role: str) -> None:
    models = {"task": Watched(), "writer": Watched(toys.writer), "judge": Watched()}
    models[role].price = None
    with pytest.raises(InputError, match=f"a budget in dollars needs the price of the {role} model: set --price"):
        search(
            tmp_path,
            models["task"],
            writer=models["writer"],
            budget="2 dollars",
            task=a_task(reward=Judge(models["judge"], "Be right.")),
        )

    assert not any(model.asked for model in models.values())


def test_a_writer_that_is_not_asked_needs_no_price(tmp_path: Path) -> None:
    writer = Watched(toys.writer, price=None)

    assert search(tmp_path, strategy=Fixed((toys.SEED,)), writer=writer, budget="2 dollars").finished
    assert writer.asked == []


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the seed must be a whole number, 0 or more, not -1"):
        search(tmp_path, seed=-1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": "1"}, "the seed must be a whole number, 0 or more, not '1'"),
        ({"budget": 100}, "a budget is a text such as '500 calls' or '2 dollars', or a Budget, not 100"),
        ({"budget": 0}, "or a Budget, not 0"),
        ({"task": {"train": []}}, "a task is a Task, or the path of a task file, not {'train': []}"),
        ({"model": str.upper}, "a function goes into FunctionModel"),
        ({"model": FakeModel}, "FakeModel'> is not a model: give a name such as 'openai:gpt-4.1-mini', or a model"),
        ({"writer": print}, "is not a model"),
        ({"strategy": PromptQuine}, "PromptQuine is a class: give a strategy, such as PromptQuine()"),
        ({"run_dir": Path(__file__)}, "test_harness.py cannot be used ("),
        ({"run_dir": Path(__file__) / "run"}, "name another one in run_dir"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused_before_anything_is_asked(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    model = Watched()
    with pytest.raises(InputError, match=re.escape(said)):
        search(tmp_path, **{"model": model, **given})
    assert model.asked == []


def test_a_fake_model_that_returns_no_text_is_named(tmp_path: Path) -> None:
    nothing: Any = {}.get
    with pytest.raises(InputError, match="must return a text or a Response, not None"):
        search(tmp_path, FakeModel(nothing))


@pytest.mark.parametrize("budget", ["1 call", "2 calls", "12 calls", "59 calls"])
def test_a_budget_that_cannot_compare_a_candidate_says_so_before_any_call(tmp_path: Path, budget: str) -> None:
    model = Watched()
    said = "that takes at least 60 calls (12 training, 8 validation, 8 test examples for each prompt)"
    with pytest.raises(InputError, match=re.escape(said)):
        search(tmp_path, model, budget=budget)

    assert model.asked == []


def test_a_model_that_never_answers_is_said_at_once(tmp_path: Path) -> None:
    model = Watched(lambda _: Failure("no route to host"))
    with pytest.raises(PassingModelError, match="the first call to the task model failed: no route to host"):
        search(tmp_path, model)

    assert len(model.asked) == 1


def test_a_writer_that_never_answers_is_said_before_the_search(tmp_path: Path) -> None:
    model = Watched()
    with pytest.raises(PassingModelError, match="the first call to the writer model failed: busy"):
        search(tmp_path, model, writer=Watched(lambda _: Failure("busy")))

    assert len(model.asked) == 1


def test_a_strategy_that_scores_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the strategy Fixed scored nothing: its search method must call"):
        search(tmp_path, strategy=Fixed(()))


# ---------------------------------------------------------------- stages and budgets


def test_test_items_are_asked_only_at_the_end_and_train_items_only_by_the_search(tmp_path: Path) -> None:
    model = Watched()
    result = search(tmp_path, model, HillClimb(restarts=1, resets=1))
    splits = model.splits

    assert result.improved
    assert set(splits) == {"train", "validation", "test"}
    assert splits == sorted(splits, key=["train", "validation", "test"].index)
    assert splits.count("test") == 2 * 24


def test_a_budget_holds_back_for_validation_and_for_a_seeded_sample_of_the_test(tmp_path: Path) -> None:
    def tested(seed: int) -> tuple[Result, set[str]]:
        model = Watched()
        task = a_task(validation=60, test=200)
        result = search(tmp_path / str(len(seen)), model, task=task, budget="500 calls", seed=seed)
        return result, {
            toys.text_of(c).split()[-1] for (c, _), s in zip(model.asked, model.splits, strict=True) if s == "test"
        }

    seen: list[set[str]] = []
    for seed in (0, 0, 1):
        result, items = tested(seed)
        seen.append(items)
        assert result.test is not None
        assert result.test.examples == len(items)
        assert 63 <= len(items) < 90  # held back for 63, and what the choice did not use
        assert calls(result) <= 500
        assert f"budget limits test to {len(items)} of 200 examples (random sample)" in result.notes
        assert any(re.match("budget limits validation to [0-9]+ of 60 examples", note) for note in result.notes)

    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize(
    "budgets",
    [range(60, 700, 149), pytest.param(range(805, 2001, 149), marks=pytest.mark.wide)],
    ids=["small", "large"],
)
@pytest.mark.parametrize(
    ("name", "strategy"),
    [("random", RandomSearch()), ("hillclimb", HillClimb()), ("promptquine", PromptQuine(shortest=3))],
)
def test_no_budget_is_ever_overshot_and_the_test_is_always_paid_for(
    tmp_path: Path, name: str, strategy: Strategy, budgets: range
) -> None:
    task = a_task(validation=40, test=80)
    with Memo(tmp_path) as memo:
        for budget in budgets:
            result = search(memo, task=task, strategy=strategy, budget=f"{budget} calls")

            assert calls(result) <= budget
            assert result.finished
            assert result.test is not None or result.prompt == task.seed_prompt
            assert not any("ended before the test" in note for note in result.notes)


def test_a_judge_is_paid_for_in_every_stage(tmp_path: Path) -> None:
    judge = Watched(lambda request: "Fine.\nScore: " + ("9" if "short" in toys.text_of(request.context) else "3"))
    model = FakeModel(lambda request: "short" if "never" not in toys.text_of(request.context) else "long")
    task = a_task(validation=60, test=100, reward=Judge(judge, "Be brief."))
    result = search(tmp_path, model, task=task, budget="600 calls")

    assert calls(result) <= 600
    assert result.test is not None
    assert result.improved
    assert result.test.chosen.estimate == pytest.approx(0.9)
    assert set(result.models) == {"task", "writer", "judge"}


@pytest.mark.parametrize("budget", [Budget(tokens=20_000), Budget(dollars=0.02)])
def test_other_units_hold_back_for_the_test_too(tmp_path: Path, budget: Budget) -> None:
    model = Watched(price=Price(1.0, 1.0), usage=Usage(30, 0, 10))
    writer = Watched(toys.writer, price=Price(1.0, 1.0), usage=Usage(50, 0, 150))
    result = search(tmp_path, model, writer=writer, task=a_task(validation=60, test=200), budget=budget)
    spent = sum(used.tokens for used in result.used.values())

    assert result.test is not None
    assert result.test.examples >= 50
    assert spent <= 20_000
    assert result.budget == str(budget)


@pytest.mark.parametrize("budget", [Budget(tokens=30_000), Budget(dollars=0.03)])
def test_the_reserve_of_a_single_call_does_not_cost_the_test_its_last_items(tmp_path: Path, budget: Budget) -> None:
    model = Watched(price=Price(1.0, 1.0), usage=Usage(30, 0, 1))
    writer = Watched(toys.writer, price=Price(1.0, 1.0), usage=Usage(50, 0, 150))
    task = a_task(validation=12, test=12, max_tokens=2_000)  # a call may take a hundred times what it does take
    result = search(tmp_path, model, writer=writer, task=task, budget=budget)

    assert result.test is not None
    assert result.test.examples == 12
    assert sum(used.tokens for used in result.used.values()) <= 30_000


@pytest.mark.parametrize("writer", [FakeModel(toys.writer, "w"), None], ids=["own", "task model"])
def test_an_unknown_price_is_noted_once(tmp_path: Path, writer: FakeModel | None) -> None:
    def reply(request: Request) -> str:
        writes = toys.text_of(request.context).startswith("You rewrite prompts")
        return toys.writer(request) if writes else toys.answer(request)

    result = search(tmp_path, Watched(reply, price=None), budget="900 calls", writer=writer)

    assert [note for note in result.notes if "price" in note] == [
        "the price of the task model is unknown: its cost is not included; set it with --price"
    ]
    assert result.prices["task"] is None


@pytest.mark.parametrize(
    ("seed", "note"),
    [
        ("Answer from {passages}.", "the seed prompt has no slot {question}, so models never see this"),
        ("Answer {question} from {passages}.", ""),
        ("Answer the question.", ""),  # the system prompt, and all fields follow
    ],
)
def test_a_field_that_no_model_sees_is_said_before_the_search(
    seed: str, note: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tuple(Example({"question": f"item {i}?", "passages": "all"}, f"{i}", f"{i}") for i in range(4))
    task = Task(train=rows, seed_prompt=Prompt(seed))
    strategy = RandomSearch(prompts=2, batch=2)
    result = optimize(task, FakeModel(lambda _: "0"), strategy, memo=tmp_path, tracking=False)

    said = [record.message for record in caplog.records if "never see" in record.message]
    assert [*said, *(one for one in result.notes if "never see" in one)] == [*said[:1], *said[:1]]
    assert bool(said) == bool(note)
    assert all(message.startswith(note) for message in said)


def test_without_test_data_nothing_is_claimed(tmp_path: Path) -> None:
    result = search(tmp_path, task=a_task(test=0))

    assert result.test is None
    assert result.prompt != result.seed_prompt
    assert not result.improved
    assert "no test data: nothing is claimed" in result.notes
    assert result.headline == "A candidate was chosen, but not tested: nothing is claimed."


def test_without_validation_data_the_search_chooses_and_says_so(tmp_path: Path) -> None:
    result = search(tmp_path, task=a_task(validation=0))
    best = max(record.fitness or 0 for record in result.history)

    assert "no validation data: the choice was made by the search's own scores" in result.notes
    assert best in [record.fitness for record in result.history if record.prompt == result.prompt]
    assert result.test is not None


@pytest.mark.parametrize("settings", [{}, {"validation": 0}, {"validation": 0, "test": 0}])
def test_the_seed_prompt_wins_where_nothing_is_better(tmp_path: Path, settings: dict[str, int]) -> None:
    def worse_without_plainly(request: Request) -> str:
        text = toys.text_of(request.context)
        return toys.right_answer(text) if "plainly" in text else "no idea"

    texts = (SEED.text, "Answer {text}", "Say {text} plainly")
    result = search(tmp_path, Watched(worse_without_plainly), Fixed(texts), a_task(seed_prompt=SEED, **settings))

    assert result.prompt == SEED
    assert not result.improved
    assert result.headline.startswith("No improvement found: ")
    if result.test is not None:
        assert result.test.difference == (0, 0, 0)


# ---------------------------------------------------------------- choosing


def choosing(memo: Memo, right: dict[str, int], count: int = 16) -> tuple[Scorer, tuple[Example, ...]]:
    """A scorer under which each prompt, by its first word, is right on so many of the first items."""
    items = tuple(Example({"text": f"{i}"}, "yes", f"e{i}") for i in range(count))

    def handler(request: Request) -> str:
        prompt, *_, item = str(request.context).split()
        return "yes" if int(item) < right[prompt] else "no"

    task = Task(train=items, seed_prompt=Prompt("seed {text}"), format="completion")
    return Scorer(task, FakeModel(handler), Caller(memo, Ledger())), items


def words_of(prompt: Prompt) -> int:
    return len(prompt.text.split())


def candidate(number: int, text: str, reward: float, cells: int = 16) -> Candidate:
    return Candidate(number, Prompt(text), fitness=reward, reward=reward, cells=cells, examples=cells)


@pytest.mark.parametrize(
    ("right", "training", "chosen", "shorter"),
    [
        ({"seed": 12, "long": 15, "short": 14}, (0.9, 0.9), "long", "short"),  # behind by 1 of 16, one standard error
        ({"seed": 12, "long": 16, "short": 13}, (0.9, 0.9), "long", None),  # behind by 3 of 16, more than one
        ({"seed": 12, "long": 15, "short": 15}, (0.9, 0.9), "short", None),  # equals go to the shorter
        ({"seed": 12, "long": 15, "short": 14}, (0.8, 0.9), "short", None),  # training items count alike
        ({"seed": 12, "long": 15, "short": 14}, (0.8, math.nan), "short", None),  # nothing is known of them
        ({"seed": 15, "long": 15, "short": 14}, (0.9, 0.9), "seed", None),  # nobody is better than the seed prompt
        ({"seed": 15, "long": 16, "short": 15}, (0.1, 0.9), "long", None),  # whatever training says
        ({"seed": 2, "long": 16, "short": 2}, (0.9, 0.9), "long", None),  # the seed prompt is dropped on the way
    ],
)
def test_the_best_on_training_and_validation_items_together_is_chosen_and_a_shorter_one_told(
    tmp_path: Path, right: dict[str, int], training: tuple[float, float], chosen: str, shorter: str | None
) -> None:
    listed = [candidate(1, "long and wordy {text}", training[0]), candidate(2, "short {text}", training[1])]
    with Memo(tmp_path) as memo:
        scorer, items = choosing(memo, right)
        found = choose(scorer, Prompt("seed {text}"), listed, items, words_of)

    assert found.prompt.text.split()[0] == chosen
    assert (found.shorter.text.split()[0] if found.shorter else None) == shorter
    assert {prompt.text.split()[0] for prompt in found.validated} == {"seed", "long", "short"}


@pytest.mark.parametrize(
    ("seed", "rival", "training", "chosen"),
    [
        (12, 12, (4, 0), "rival"),  # equal on validation items: training items decide
        (12, 12, (0, 0), "seed"),
        (12, 12, (0, 4), "seed"),
        (12, 11, (4, 0), "rival"),  # behind by one of 16 and one standard error, ahead on both together
        (12, 11, (1, 0), "seed"),  # not ahead on both together
        (12, 10, (9, 0), "seed"),  # behind by more than a standard error
        (12, 13, (0, 4), "seed"),  # ahead on validation items, behind on both together
    ],
)
def test_a_prompt_must_be_ahead_of_the_seed_prompt_on_both_and_not_behind_on_validation_items(
    tmp_path: Path, seed: int, rival: int, training: tuple[int, int], chosen: str
) -> None:
    won, lost = training
    listed = candidate(1, "rival {text}", 0.9)
    gains = {listed.prompt: np.array([1.0] * won + [-1.0] * lost)}
    with Memo(tmp_path) as memo:
        scorer, items = choosing(memo, {"seed": seed, "rival": rival})
        found = choose(scorer, Prompt("seed {text}"), [listed], items, words_of, training=gains)

    assert found.prompt.text.split()[0] == chosen


def test_what_validation_saw_is_told_of_each_prompt(tmp_path: Path) -> None:
    listed = [candidate(1, "good {text}", 0.9), candidate(2, "bad {text}", 0.8)]
    with Memo(tmp_path) as memo:
        scorer, items = choosing(memo, {"seed": 30, "good": 32, "bad": 1}, 32)
        found = choose(scorer, Prompt("seed {text}"), listed, items, words_of)

    assert {prompt.text.split()[0]: tuple(seen) for prompt, seen in found.validated.items()} == {
        "seed": (30 / 32, 32),
        "good": (1.0, 32),
        "bad": (1 / 8, 8),  # dropped after the first block
    }


def test_the_shortlist_is_of_the_best_that_were_measured_well(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        scorer, items = choosing(memo, {"seed": 16, "lucky": 4, "good": 12, "fair": 8, "bad": 1})
        run = Run(scorer.task, None, 0, scorer)  # type: ignore[arg-type]  # no randomness here
        run.score([Prompt(f"{name} {{text}}") for name in ("bad", "fair", "seed", "good")])
        run.score([Prompt("lucky {text}")], items[:4])
        listed = shortlist(run.archive, Prompt("seed {text}"), size=2)

    assert [candidate.prompt for candidate in listed] == [Prompt("good {text}"), Prompt("fair {text}")]


def test_the_shortlist_is_by_fitness_and_by_reward_in_turn() -> None:
    """A search may go by a margin; what has the best one may be at chance by the task's own reward."""
    seen = {"sure": (90, 0.5), "surer": (95, 0.4), "right": (10, 0.9), "fair": (20, 0.8), "unknown": (30, math.nan)}
    archive, example = Archive(), Example({"text": ""}, None, "0")
    for name, (fitness, reward) in seen.items():
        archive.add([Prompt(name)], [example], np.array([[[reward]]]), np.array([[[fitness]]]))
    listed = [candidate.prompt.text for candidate in shortlist(archive, Prompt("seed"), size=4)]

    assert listed == ["surer", "right", "sure", "fair"]


def test_the_test_is_paired_over_the_items_that_both_have(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        scorer, items = choosing(memo, {"seed": 10, "good": 14})
        handler = scorer.model.handler  # type: ignore[attr-defined]
        scorer.model = Watched(lambda r: Failure("busy") if str(r.context) == "good 3" else handler(r))
        found = compare(scorer, Prompt("seed {text}"), Prompt("good {text}"), items)

    assert found.examples == 15
    assert found.seed.estimate == 10 / 16
    assert found.chosen.estimate == 13 / 15
    assert found.difference.estimate == pytest.approx(4 / 15)


def test_the_test_of_items_in_groups_has_intervals_of_groups(tmp_path: Path) -> None:
    with Memo(tmp_path) as memo:
        scorer, items = choosing(memo, {"seed": 10, "good": 14})
        grouped = [replace(item, group=f"customer {i // 2}") for i, item in enumerate(items)]
        found = compare(scorer, Prompt("seed {text}"), Prompt("good {text}"), grouped)
        alone = compare(scorer, Prompt("seed {text}"), Prompt("good {text}"), items)

    clusters = [o.group or "" for o in found.outcomes]
    first, second = (
        np.array([answer.reward for answer in side], dtype=float)
        for side in zip(*((o.seed, o.chosen) for o in found.outcomes), strict=True)
    )
    assert (found.items, alone.items) == ("16 test items in 8 groups", "16 test items")
    assert found.difference == clustered_interval(second, first, clusters, 0.95) != alone.difference
    assert found.chosen == mean_interval(second, clusters=clusters) != alone.chosen
    assert found.spread == pytest.approx(4 * clustered_standard_error(second - first, clusters))
    assert found.items_wanted != alone.items_wanted
    write_outcomes(found.outcomes, tmp_path / "test.jsonl")
    assert groups_of(read_outcomes(tmp_path / "test.jsonl")) == groups_of(grouped)


# ---------------------------------------------------------------- failures


def failing_on(*items: str) -> Callable[[Request], str | Failure]:
    def handler(request: Request) -> str | Failure:
        text = toys.text_of(request.context)
        return Failure("busy") if any(text.endswith(f" {item}") for item in items) else toys.answer(request)

    return handler


def test_failed_cells_leave_a_run_unfinished_and_are_asked_again_by_the_next(
    tmp_path: Path, calm: tuple[Result, list[str]]
) -> None:
    model = Watched(failing_on("item5"))
    result = search(tmp_path, model)

    assert not result.finished
    assert re.match(r"Unfinished \(\d+ of \d+ replies failed, more than 1%; run again", result.headline)
    assert re.search(r"The first was example '.+': busy", result.headline)
    assert result.failed == len({request for request in model.asked if toys.text_of(request[0]).endswith(" item5")})
    assert all(record.failed == 1 and record.cells == 11 for record in result.history)
    assert all(record.fitness is not None for record in result.history)

    healed = Watched()
    after = search(tmp_path, healed)
    assert after == calm[0]
    assert after.finished
    assert after.failed == 0
    completed = {request for request in model.asked if not toys.text_of(request[0]).endswith(" item5")}
    assert not completed & set(healed.asked)


def test_a_few_failed_cells_are_said_and_no_more(tmp_path: Path) -> None:
    spoiled = Watched()

    def handler(request: Request) -> str | Failure:
        text = toys.text_of(request.context)
        return Failure("busy") if "test7 " in text else toys.answer(request)

    spoiled.handler = handler
    result = search(tmp_path, spoiled)

    assert result.finished
    assert result.failed == 2
    assert result.test is not None
    assert result.test.examples == 23
    assert result.headline.startswith("Better than the seed prompt")
    assert result.headline.endswith("Failed replies: 2.")
    (note,) = (note for note in result.notes if "failed" in note)
    assert re.fullmatch(r"2 replies failed; the first was example '.+': busy", note)


def test_verdicts_without_a_score_leave_a_run_unfinished(tmp_path: Path) -> None:
    judge = Watched(lambda _: "I would rather not say.")
    result = search(tmp_path, task=a_task(reward=Judge(judge, "Be right.")))

    assert re.search(r"\d+ of \d+ replies have no score", result.unfinished)
    assert result.prompt == result.seed_prompt
    assert all(record.fitness is None for record in result.history)


def test_a_final_error_at_the_first_call_is_raised(tmp_path: Path) -> None:
    def refuse(count: int) -> None:
        raise FinalModelError("the key is wrong: set OPENAI_API_KEY")

    with pytest.raises(FinalModelError, match="the key is wrong"):
        search(tmp_path, Watched(before=refuse))


@pytest.mark.parametrize(
    ("at", "best"), [(5, "the seed"), (400, "a better one"), ("validation", "a better one"), ("test", "a better one")]
)
def test_a_final_error_later_leaves_an_unfinished_result_with_the_best_so_far(
    tmp_path: Path, at: int | str, best: str, calm: tuple[Result, list[str]]
) -> None:
    number = at if isinstance(at, int) else calm[1].index(at) + 3

    def refuse(count: int) -> None:
        if count == number:
            raise FinalModelError("the quota is spent")

    result = search(tmp_path, Watched(before=refuse))

    assert result.unfinished == "the quota is spent"
    assert result.headline.startswith("Unfinished (the quota is spent). ")
    assert result.test is None
    assert (result.prompt == result.seed_prompt) == (best == "the seed")

    assert search(tmp_path) == calm[0]


# ---------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize("at", [0, 5, 400, "validation"])
def test_ctrl_c_ends_with_the_best_so_far_and_running_again_goes_on(
    tmp_path: Path, at: int | str, calm: tuple[Result, list[str]]
) -> None:
    number = at if isinstance(at, int) else calm[1].index(at) + 3
    before = signal.getsignal(signal.SIGINT)

    def press(count: int) -> None:
        if count == number:
            signal.raise_signal(signal.SIGINT)

    stopped = Watched(before=press)
    result = search(tmp_path, stopped)
    assert result.unfinished == "stopped by the user"
    assert result.test is None
    assert result.headline.startswith("Unfinished (stopped by the user). ")
    assert signal.getsignal(signal.SIGINT) is before

    resumed = Watched()
    finished = search(tmp_path, resumed)
    assert finished == calm[0]
    assert finished.finished
    assert max(Counter(stopped.asked + resumed.asked).values()) == 1


def test_ctrl_c_in_a_long_test_leaves_it_unfinished(tmp_path: Path) -> None:
    model = Watched()

    def press(count: int) -> None:
        if count and model.splits[-1] == "test":
            model.before = lambda _: None
            signal.raise_signal(signal.SIGINT)

    model.before = press
    result = search(tmp_path, model, task=a_task(test=100))

    assert result.unfinished == "stopped by the user"
    assert result.test is None
    assert model.splits.count("test") < 2 * 100


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def press(count: int) -> None:
        if count == 60:
            signal.raise_signal(signal.SIGINT)
            while signal.getsignal(signal.SIGINT) is not before:  # Python calls a handler some time after the signal
                time.sleep(0.001)
            signal.raise_signal(signal.SIGINT)

    model = Watched(before=press)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, model)

    assert len(model.asked) == 60
    assert signal.getsignal(signal.SIGINT) is before


def test_where_ctrl_c_is_ignored_it_stays_so(tmp_path: Path, calm: tuple[Result, list[str]]) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pressed = search(tmp_path, Watched(before=lambda _: signal.raise_signal(signal.SIGINT)))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

    assert pressed.finished
    assert pressed.prompt == calm[0].prompt


def test_a_run_beside_the_main_thread_leaves_signals_alone(tmp_path: Path, calm: tuple[Result, list[str]]) -> None:
    results: list[Result] = []
    worker = threading.Thread(target=lambda: results.append(search(tmp_path)))
    worker.start()
    worker.join()

    assert results == [calm[0]]


# ---------------------------------------------------------------- the result


def test_the_result_says_how_it_came_about(tmp_path: Path) -> None:
    result = search(tmp_path / "memo", settings={"prompts": "16"}, seed=3, run_dir=tmp_path / "run")

    assert result.strategy == {"name": "RandomSearch", "settings": {"prompts": 16, "batch": 8}}
    assert result.models["task"] == {"provider": "watched"}
    assert result.models["writer"].items() >= {"provider": "fake", "model": "w"}.items()
    assert (result.seed, result.budget) == (3, "5,000 calls")
    assert result.lengths == (len(words(toys.SEED)), len(words(result.prompt.text)))
    assert {"promptopt", "python", "numpy"} <= set(result.versions)
    assert result.history[0].prompt == result.seed_prompt
    assert [record.number for record in result.history] == list(range(len(result.history)))
    assert Result.load(tmp_path / "run" / "result.json") == result
    assert result.headline in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "result.json",
        "test.jsonl",
        "candidates.csv",
        "test.csv",
        "report.md",
        "study.db",
        "events.jsonl",
        "cells.db",
    }


def test_validation_stands_beside_the_candidates_that_were_raced(tmp_path: Path) -> None:
    result = search(tmp_path)
    (chosen,) = [record for record in result.history if record.prompt == result.prompt]
    raced = [record for record in result.history if record.validation is not None]

    assert chosen.validated == 24
    assert chosen.validation == 1.0
    assert 1 < len(raced) <= 17
    assert all(0 < record.validated <= 24 for record in raced)


def test_near_duplicates_across_splits_are_noted(tmp_path: Path) -> None:
    task = a_task()
    twin = replace(task.train[0], id="twin")
    result = search(tmp_path, task=replace(task, test=(*task.test, twin)))

    assert any("near-duplicates across splits" in note and "twin" in note for note in result.notes)


def test_a_label_that_no_item_has_is_noted(tmp_path: Path) -> None:
    task = a_task()
    result = search(tmp_path, task=replace(task, labels=(*task.labels, "neither")))

    assert "no example has the label 'neither': it is neither trained on nor tested" in result.notes
    assert not any("no item has" in note for note in search(tmp_path, task=task).notes)


def test_replies_that_name_no_label_are_noted_with_examples(tmp_path: Path) -> None:
    mumbling = FakeModel(
        lambda request: "Hm?" if toys.text_of(request.context).endswith("item3") else "yes", "mumbling"
    )
    notes = search(tmp_path, mumbling, Fixed((toys.SEED,))).notes
    (note,) = [note for note in notes if "named no label" in note]

    assert re.match(r"\d+ of \d+ replies named no label, such as 'Hm\?': ", note)
    assert not any("named no label" in note for note in search(tmp_path).notes)


def test_answers_that_look_like_labels_are_noted(tmp_path: Path) -> None:
    free = a_task(labels=())
    train, validation, test = (
        tuple(replace(item, target=item.id) for item in items) for items in (free.train, free.validation, free.test)
    )
    numbered = replace(free, train=train, validation=validation, test=test)
    said = "60 examples share 2 different answers, such as 'no': if the model should choose among these, set them as labels"

    assert said in search(tmp_path, task=free).notes
    assert not any("different answers" in note for note in search(tmp_path, task=numbered).notes)
    assert not any("different answers" in note for note in search(tmp_path).notes)


def test_a_task_with_any_reward_and_no_labels_runs(tmp_path: Path) -> None:
    result = search(tmp_path, task=a_task(labels=(), reward=Contains()))

    assert result.improved


def test_the_writer_is_the_task_model_unless_told(tmp_path: Path) -> None:
    both = FakeModel(lambda r: toys.answer(r) if "item" in toys.text_of(r.context)[-9:] else toys.writer(r), "both")
    result = search(tmp_path, both, writer=None)

    assert result.models["writer"] == result.models["task"]
    assert set(result.used) == {"task", "writer"}
    assert Job(task=a_task(), model=both, writer=None, strategy=SEARCH, budget=Budget(), seed=0).roles == {
        "task": both,
        "writer": both,
    }


# ---------------------------------------------------------------- replies that were cut off before any text


def thinker(cut: str) -> FakeModel:
    """A model that uses up its tokens before it says anything about items that hold a word."""

    def answer(request: Request) -> Response:
        silent = cut in str(request.context)
        return Response("" if silent else toys.LABELS[0], finish_reason="length" if silent else "stop")

    return FakeModel(answer, name=f"thinker {cut}")


def test_a_model_whose_first_reply_holds_no_text_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cut off at 16 tokens, before any text: raise the task's max_tokens"):
        search(tmp_path, thinker("item"), task=a_task(max_tokens=16))


def test_replies_cut_off_before_any_text_are_noted(tmp_path: Path) -> None:
    result = search(tmp_path, thinker("item3"))
    quiet = search(tmp_path, thinker("nothing"))

    assert any(
        re.search(r"[\d,]+ of [\d,]+ replies hold no text: [\d,]+ cut off at \d+ tokens", note) for note in result.notes
    )
    assert not any("cut off" in note for note in quiet.notes)
