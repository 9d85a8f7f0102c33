"""Learning without labels, on models whose right answers, leanings and errors are known."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from promptopt import (
    Arrival,
    Example,
    Failure,
    FakeLabelModel,
    FakeModel,
    InputError,
    Prompt,
    Response,
    Result,
    Task,
    Unsupervised,
    optimize,
    pseudo_labels,
    write_fine_tuning,
)
from promptopt.results.pseudo_labels import PseudoLabel
from promptopt.search.pseudo_labels import confident
from promptopt.search.run import label_shares
from promptopt.strategies.base import needs_no_labels
from promptopt.strategies.ppd import PPD
from promptopt.strategies.registry import BUILT_IN, find_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt import Request, Run
    from promptopt.models.base import Model
    from promptopt.prompt import Context
    from promptopt.strategies.base import Strategy

GOLDEN = Path(__file__).with_name("golden")
LABELS = ("bad", "good")
SIGNS = (("dull", "awful", "flat"), ("lovely", "bright", "warm"))
SMALL = Unsupervised(positions=2, steps=3, samples=4, batch=10, vocabulary=8)
PAPER = PPD(positions=3, samples=4, epochs=2)


def chance(*of: object) -> float:
    """A standard normal number that depends on nothing else."""
    words = np.frombuffer(hashlib.sha256(repr(of).encode()).digest(), dtype=np.uint32)
    return float(np.random.default_rng(words).normal())


def item(number: int, target: str | None) -> Example:
    label = int(hashlib.sha256(str(number).encode()).digest()[0] % 2)
    return Example({"text": f"scene {number} was {SIGNS[label][number % 3]}"}, target, f"i{number}")


def truth(text: str) -> int:
    return int(any(word in text for word in SIGNS[1]))


def task(count: int = 200, tests: int = 100) -> Task:
    items = [item(i, None) for i in range(count + tests)]
    return Task(
        train=tuple(items[:count]),
        test=tuple(replace(one, target=LABELS[truth(one.inputs["text"])]) for one in items[count:]),
        seed_prompt=Prompt("{text} :"),
        labels=LABELS,
        format="completion",
    )


def leaning(context: Context, labels: Sequence[str]) -> list[float]:
    """Knows the answer, but leans far to one label until it is shown others; errs anew under each prompt."""
    assert isinstance(context, str)
    shown = context.count("\n\n")
    query = context.split("\n\n")[-1]
    sure = (1 if truth(query) else -1) + 0.6 * chance(context[: -len(query)], query)
    lean = 3.0 if not shown else 0.0
    return [-np.logaddexp(0, sure + lean).item(), -np.logaddexp(0, -sure - lean).item()]


def stubborn(context: Context, labels: Sequence[str]) -> list[float]:
    """Nothing helps: says the same whatever stands before the item."""
    query = str(context).split("\n\n")[-1].split("\n")[-1]
    return [-1.0, -1.0 - (1 if truth(query) else -1) - 2.0 * chance(query)]


def unsure(context: Context, labels: Sequence[str]) -> list[float]:
    """Three to one, and other words likelier than both."""
    return [-2.0, -2.0 - np.log(3).item()]


def guessing(context: Context, labels: Sequence[str]) -> list[float]:
    """Knows nothing: a new guess for every prompt and item."""
    return [-1.0, -1.0 + chance(context)]


def spoilt_by_examples(context: Context, labels: Sequence[str]) -> list[float]:
    """Good without demonstrations; with them it repeats the last label that it was shown."""
    parts = str(context).split("\n\n")
    right = 1 if truth(parts[-1]) else -1
    said = right + 0.3 * chance(context) if len(parts) == 1 else (4 if parts[-2].endswith("good") else -4) + 0.2 * right
    return [-1.0, -1.0 + said]


def habit(context: Context, labels: Sequence[str]) -> list[float]:
    """Good without demonstrations; with them every prompt gives the same wrong answers, so that all agree."""
    query = str(context).split("\n\n")[-1]
    right = 1 if truth(query) else -1
    shown = "\n\n" in str(context)
    said = (2 if len(query.split("\n")[-1]) % 2 else -2) if shown else right + 0.8 * chance(context)
    return [-1.0, -1.0 + said]


def swayed(context: Context, labels: Sequence[str]) -> list[float]:
    """Knows the answer, but leans far to "bad", and to what it is shown oftener and last."""
    *shown, query = str(context).split("\n\n")
    said = [1 if one.endswith("good") else -1 for one in shown]
    lean = -3.0 + (1.5 * sum(said) + said[-1] if said else 0.0)
    return [-1.0, -1.0 + (1 if truth(query) else -1) + 0.6 * chance(context) + lean]


def divided(context: Context, labels: Sequence[str]) -> list[float]:
    """Good without demonstrations; of prompts with them one half errs alike, the other each in its own way."""
    parts = str(context).split("\n\n")
    right = 1 if truth(parts[-1]) else -1
    if len(parts) == 1:
        return [-1.0, -1.0 + right + 0.8 * chance(context)]
    alike = chance(parts[:-1]) > 0
    query = parts[-1].split("\n")[-1]
    said = right * (1 if chance(query) > -0.5 else -1) if alike else right + 1.5 * chance(context)
    return [-1.0, -1.0 + 2 * said]


def run(handler: Callable[[Context, Sequence[str]], list[float]], memo: Path, seed: int = 0, **more: object) -> Result:
    strategy = more.get("strategy", SMALL)
    given = more.get("task", task())
    budget = more.get("budget")
    assert isinstance(given, Task)
    assert isinstance(strategy, Unsupervised | PPD)
    assert budget is None or isinstance(budget, str)
    model = FakeLabelModel(handler)
    model.fingerprint = {"provider": "fake", "model": handler.__name__}  # whatever the handler counts beside
    return optimize(given, model, strategy, seed=seed, memo=memo, budget=budget)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Result, Path]]:
    """Return the result of a strategy and a seed on `leaning`, which is run once, and its memo."""

    @cache
    def made(strategy: Strategy = SMALL, seed: int = 0) -> tuple[Result, Path]:
        memo = tmp_path_factory.mktemp("memo")
        return run(leaning, memo, seed, strategy=strategy), memo

    return made


@pytest.fixture
def learnt(once: Callable[..., tuple[Result, Path]]) -> Result:
    """The result of the small strategy at seed 0."""
    return once()[0]


@dataclass(frozen=True)
class Look:
    """A strategy that only looks at label probabilities, of two votes each."""

    writes: ClassVar[bool] = False
    unlabelled: ClassVar[bool] = True
    found: list[Any] = field(default_factory=list)

    def search(self, run: Run) -> None:
        self.found.append(run.label_probabilities([run.task.seed_prompt], replicates=2))
        assert not run.archive
        run.score([run.task.seed_prompt], run.task.test[:1])


def looked(model: Model, memo: Path, **changes: Any) -> Any:
    look = Look()
    optimize(replace(task(3, 1), temperature=1.0, **changes), model, look, memo=memo)
    return look.found[0]


def test_label_probabilities_are_normalised_over_the_labels_and_enter_no_history(tmp_path: Path) -> None:
    found = looked(FakeLabelModel(unsure), tmp_path)

    assert found.shape == (1, 3, 2)
    assert found[0, 0] == pytest.approx([0.75, 0.25])


def test_label_probabilities_of_a_model_of_text_are_shares_of_votes(tmp_path: Path) -> None:
    said = {"scene 0": ("good", "bad"), "scene 1": ("good.", "no idea"), "scene 2": ("good", "Good")}
    model = FakeModel(lambda request: said.get(str(request.context)[:7], ("bad",) * 2)[request.replicate])

    assert looked(model, tmp_path)[0].tolist() == [[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]]


def test_label_probabilities_need_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="need a task with labels"):
        looked(FakeModel(str), tmp_path, labels=())


def test_a_failed_cell_has_no_label_probabilities() -> None:
    lost = Failure("lost")

    assert np.isnan(label_shares([lost, lost], LABELS)).all()
    assert label_shares([lost, Response("good")], LABELS) == [0.0, 1.0]


def test_demonstrations_with_agreed_labels_undo_a_leaning(learnt: Result) -> None:
    assert learnt.test is not None

    assert learnt.test.seed.estimate < 0.6
    assert learnt.test.chosen.estimate > 0.85
    assert learnt.improved
    assert learnt.prompt.demonstrations is not None
    shown = learnt.prompt.demonstrations.items
    assert [label for label in LABELS for one in shown if one.target == label] == ["bad"] * 2 + ["good"] * 2


def test_sets_of_demonstrations_race_by_their_plain_answers(tmp_path: Path) -> None:
    wordless = replace(SMALL, positions=0)
    raced, balanced = (run(swayed, tmp_path, strategy=replace(wordless, sets=sets)) for sets in (wordless.sets, 0))

    assert raced.test is not None
    assert raced.test.seed.estimate < 0.6
    assert raced.test.chosen.estimate > 0.8
    assert raced.prompt.demonstrations is not None
    shown = [one.target for one in raced.prompt.demonstrations.items]
    assert shown.count("good") > shown.count("bad")
    assert balanced.test is None or balanced.test.chosen.estimate < 0.7
    sets = [step["raced"] for step in raced.steps if "raced" in step]
    assert sets[0] > 20
    assert sets == sorted(sets, reverse=True)


def covers(result: Result) -> bool:
    last = result.steps[-1]
    assert result.test is not None
    assert last["low"] <= last["accuracy"] <= last["high"]
    covered: bool = last["low"] - 0.03 <= result.test.chosen.estimate <= last["high"] + 0.03
    return covered


def test_the_estimate_without_labels_covers_what_the_test_shows(learnt: Result) -> None:
    assert covers(learnt)


@pytest.mark.wide
def test_the_estimate_without_labels_covers_what_the_test_shows_at_most_seeds(tmp_path: Path) -> None:
    assert sum(covers(run(leaning, tmp_path, seed)) for seed in range(1, 5)) >= 3


def test_pseudo_labels_are_mostly_right_and_balanced(learnt: Result) -> None:
    labels = pseudo_labels(learnt)

    assert [label.id for label in labels] == [one.id for one in task().train]
    right = [LABELS[truth(one.inputs["text"])] == label.label for one, label in zip(task().train, labels, strict=True)]
    assert np.mean(right) > 0.93
    assert 0.3 < np.mean([label.label == "good" for label in labels]) < 0.7
    assert all(0.5 <= label.confidence <= 1 for label in labels)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.wide) for seed in (1, 2, 3))])
@pytest.mark.parametrize("handler", [stubborn, guessing, spoilt_by_examples, habit])
def test_where_nothing_helps_the_seed_prompt_is_returned(
    handler: Callable[[Context, Sequence[str]], list[float]], seed: int, tmp_path: Path
) -> None:
    given = replace(task(), test=())

    assert run(handler, tmp_path, seed, task=given).prompt == given.seed_prompt


def test_where_one_annotator_decides_what_all_agree_upon_the_seed_prompt_is_returned(tmp_path: Path) -> None:
    result = run(divided, tmp_path)
    checked, concluded = result.steps[-2:]

    assert result.prompt == result.seed_prompt
    assert checked["low"] < 0 < checked["gain"]
    assert checked["related"] > 0
    assert checked["collapsed"] == "False"
    assert concluded["low"] <= concluded["accuracy"] <= concluded["high"]


def test_targets_of_training_items_are_never_looked_at(learnt: Result, tmp_path: Path) -> None:
    bare = task()
    wrong = replace(bare, train=tuple(replace(one, target=LABELS[1 - truth(one.inputs["text"])]) for one in bare.train))

    assert run(leaning, tmp_path, task=wrong).history == learnt.history


def test_labelled_validation_items_decide_where_there_are_any(tmp_path: Path) -> None:
    lying = tuple(replace(item(i, None), target=LABELS[1]) for i in range(1000, 1060))  # the seed prompt is right here
    result = run(leaning, tmp_path, task=replace(task(), validation=lying))

    assert len(result.history) == 2
    assert result.prompt == result.seed_prompt


@pytest.mark.parametrize(  # the paper's golden file shows the same of it, to four digits
    "strategy", [SMALL, pytest.param(PAPER, marks=pytest.mark.wide)], ids=["unsupervised", "paper"]
)
def test_one_seed_gives_one_result_and_a_replay_makes_no_call(
    strategy: Strategy, once: Callable[..., tuple[Result, Path]]
) -> None:
    first, memo = once(strategy, 11)
    replay = run(leaning, memo, seed=11, strategy=strategy)

    assert first == replay
    assert first.paid
    assert not replay.paid
    assert first.steps != once(strategy)[0].steps


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("unsupervised", SMALL), ("unsupervised.paper", PAPER)],
    ids=["unsupervised", "paper"],
)
def test_the_trajectory_is_the_golden_one(
    name: str, strategy: Strategy, once: Callable[..., tuple[Result, Path]]
) -> None:
    """What a search does at a fixed seed; PROMPTOPT_WRITE_GOLDEN=1 writes the files anew."""
    result, _ = once(strategy, 11)
    steps = [{k: round(v, 4) if isinstance(v, float) else v for k, v in step.items()} for step in result.steps]
    found = [*steps, [record.prompt.to_json() for record in result.history]]
    file = GOLDEN / f"{name}.json"
    if os.environ.get("PROMPTOPT_WRITE_GOLDEN"):
        file.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")

    assert found == json.loads(file.read_text())


class Dies(Exception):  # noqa: N818  it stands for a kill
    pass


@pytest.mark.parametrize(
    "strategy", [SMALL, pytest.param(PAPER, marks=pytest.mark.wide)], ids=["unsupervised", "paper"]
)
def test_a_run_that_died_ends_as_if_it_had_not_and_repeats_no_call(
    strategy: Strategy, once: Callable[..., tuple[Result, Path]], tmp_path: Path
) -> None:
    calm, _ = once(strategy)
    seen: list[Context] = []

    def counted(context: Context, labels: Sequence[str]) -> list[float]:
        if len(seen) in (450, 750):
            seen.append("died")
            raise Dies
        seen.append(context)
        return leaning(context, labels)

    counted.__name__ = leaning.__name__  # the same model to the memo
    for _ in range(2):
        with pytest.raises(Dies):
            run(counted, tmp_path, strategy=strategy)

    assert run(counted, tmp_path, strategy=strategy) == calm
    asked = [context for context in seen if context != "died"]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("unsupervised", "650 calls"),
        ("unsupervised.paper", "650 calls"),
        ("unsupervised", "2500 calls"),
        pytest.param("unsupervised.paper", "2500 calls", marks=pytest.mark.wide),
        pytest.param("unsupervised", "1300 calls", marks=pytest.mark.wide),
        pytest.param("unsupervised.paper", "1300 calls", marks=pytest.mark.wide),
    ],
)
def test_a_small_budget_ends_the_search_in_good_order(name: str, budget: str, tmp_path: Path) -> None:
    result = run(leaning, tmp_path, strategy=BUILT_IN[name](), budget=budget)

    assert result.finished
    assert result.used["task"].calls <= int(budget.removesuffix(" calls"))
    assert pseudo_labels(result)


def test_votes_from_text_do_where_there_are_no_log_probabilities(tmp_path: Path) -> None:
    def say(request: Request) -> str:
        first, second = leaning(request.context, LABELS)
        return LABELS[int(second - first + 0.8 * chance(request.context, request.replicate) > 0)]

    given = replace(task(count=150), temperature=1.0)
    strategy = replace(SMALL, replicates=5)
    result = optimize(given, FakeModel(say), strategy, memo=tmp_path)

    assert result.finished
    assert result.improved


def test_failed_replies_are_no_votes(tmp_path: Path) -> None:
    class Losing(FakeLabelModel):
        def label_logprobs(self, contexts: object, labels: Sequence[str]) -> object:  # type: ignore[override]
            for arrival in super().label_logprobs(contexts, labels):  # type: ignore[arg-type]
                lost = arrival.number % 29 == 5
                yield Arrival(arrival.number, Failure("lost")) if lost else arrival

    model: Model = Losing(leaning)
    result = optimize(task(count=100, tests=60), model, SMALL, memo=tmp_path)

    assert "replies failed" in result.unfinished
    assert len(pseudo_labels(result)) == 100
    assert len(result.history) == 2


def test_the_paper_learns_a_prompt_with_nearest_demonstrations_and_no_guard(
    once: Callable[..., tuple[Result, Path]],
) -> None:
    result, _ = once(PAPER)

    assert len(result.history) == 1
    assert result.prompt.demonstrations is not None
    assert result.prompt.demonstrations.nearest == 3
    assert len(result.prompt.text.split("\n")[0].split()) >= 3
    assert [step["surest"] for step in result.steps if "surest" in step][-1] > 1 / 10


def test_the_paper_settings_are_those_of_the_sources() -> None:
    assert Unsupervised.paper() == PPD(positions=20, vocabulary=100, samples=30, batch=16, rate=1e-3, neighbours=3)
    assert find_strategy("unsupervised.paper", {"rate": "0.01"}) == PPD(rate=0.01)
    assert find_strategy("unsupervised", {"positions": "0"}) == Unsupervised(positions=0)


def test_only_unsupervised_strategies_say_that_they_need_no_labels() -> None:
    assert sorted(name for name, make in BUILT_IN.items() if needs_no_labels(make())) == [
        "unsupervised",
        "unsupervised.paper",
    ]


def test_a_quota_keeps_every_class() -> None:
    beliefs = np.array([[0.99, 0.01], [0.9, 0.1], [0.95, 0.05], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3]])

    assert confident(beliefs, 0.5) == [[0, 2], [4]]


def test_a_quota_is_the_same_for_each_class_and_takes_the_surest() -> None:
    beliefs = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [np.nan, np.nan], [0.4, 0.6]])

    assert confident(beliefs, 0.7) == [[0, 1], [3, 5]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (replace(task(), labels=()), "give labels"),
        (task(count=20), "20 training items are too few"),
        (replace(task(), test=(item(900, None),)), "test item 'i900' has no label"),
    ],
)
def test_a_task_that_it_cannot_work_on_is_refused(changed: Task, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(leaning, tmp_path, task=changed)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("unsupervised", {"views": "1"}, "views must be at least 2"),
        ("unsupervised", {"views": "3", "rounds": "1"}, "rounds x views must be at least 4"),
        ("unsupervised", {"share": "0"}, r"share must be in \(0, 1\]"),
        ("unsupervised.paper", {"samples": "1"}, "samples must be at least 2"),
    ],
)
def test_a_wrong_setting_says_the_mend(name: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_strategy(name, settings)


def test_other_strategies_refuse_items_without_labels_before_any_call(tmp_path: Path) -> None:
    def never(context: Context, labels: Sequence[str]) -> list[float]:
        pytest.fail("the model was asked")

    with pytest.raises(InputError, match="training example 'i0' has no label, but PromptQuine needs labels: label the"):
        optimize(task(), FakeLabelModel(never), "promptquine", memo=tmp_path)


def test_sure_labels_become_chats_for_fine_tuning(tmp_path: Path) -> None:
    given = replace(task(), seed_prompt=Prompt("Judge it."))
    labels = [PseudoLabel("i0", "good", 0.99), PseudoLabel("i1", "bad", 0.6)]
    count = write_fine_tuning(tmp_path / "sure.jsonl", given, labels)

    (chat,) = [json.loads(line) for line in (tmp_path / "sure.jsonl").read_text().splitlines()]
    assert count == 1
    assert chat == {
        "messages": [
            {"role": "system", "content": "Judge it."},
            {"role": "user", "content": given.train[0].inputs["text"]},
            {"role": "assistant", "content": "good"},
        ]
    }
    with pytest.raises(InputError, match="lower `least`"):
        write_fine_tuning(tmp_path / "none.jsonl", given, labels, least=0.999)


def test_a_saved_result_keeps_its_pseudo_labels_and_another_strategys_has_none(learnt: Result, tmp_path: Path) -> None:
    learnt.save(tmp_path / "result.json")

    assert pseudo_labels(Result.load(tmp_path / "result.json")) == pseudo_labels(learnt)
    with pytest.raises(InputError, match="holds no pseudo-labels"):
        pseudo_labels(replace(learnt, steps=()))
