"""PromptQuine's two modes, its default's levers, and the two hill climbers beside it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import toys
from toys import TASK, TOYS

from promptopt import (
    Exact,
    Example,
    FakeLabelModel,
    FakeModel,
    InputError,
    LabelMargin,
    Number,
    Prompt,
    PromptQuine,
    Request,
    Result,
    Strategy,
    Task,
    TokenF1,
    optimize,
)
from promptopt.search.tokens import words
from promptopt.strategies import SteepestAscent, TAPruning
from promptopt.strategies.registry import find_strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt import Model
    from promptopt.prompt import Context
    from promptopt.strategies.promptquine_paper import PromptQuinePaper

GOLDEN = Path(__file__).with_name("golden")
PAPER = replace(PromptQuine.paper(), shortest=3)
SSGA = replace(PromptQuine.paper("ssga"), shortest=3, max_prompts=300)
OURS = PromptQuine(shortest=3)
PLAIN = PromptQuine(
    population=30, offspring=50, largest_share=0, shortest=3, elite=0, restore=0, swap=0, guide=0, items=0, block=0,
    patience=0, starts=1,
)  # fmt: skip
EVOLUTIONS: dict[str, PromptQuine | PromptQuinePaper] = {"gga": PAPER, "ssga": SSGA, "ours": OURS}
ALL: dict[str, Strategy] = {**EVOLUTIONS, "tapruning": TAPruning(), "steepest": SteepestAscent()}


def search(task: Task, model: Model, strategy: Strategy, memo: Path, seed: int = 0) -> Result:
    return optimize(task, model, strategy, seed=seed, memo=memo)


def items(count: int, inputs: Any, target: Any) -> dict[str, Any]:
    return {
        split: tuple(Example(inputs(i), target(i), f"{split}{i}") for i in range(count))
        for split in ("train", "validation", "test")
    }


# The task types of the paper, each on a fake model that "never" and "perhaps" confuse.


def number_in(text: str, mark: str) -> int:
    return int(re.findall(rf"{mark}(\d+)", text)[-1])


def confused(text: str, number: int) -> bool:
    return ("never" in text and number % 2 == 0) or ("perhaps" in text and number % 3 == 0)


def classification(context: Context, labels: Sequence[str]) -> list[float]:
    text = toys.text_of(context)
    n = number_in(text, "item")
    y = n % len(labels)
    sure = (y + 1) % len(labels) if confused(text, n) else y
    return [-0.2 if i == sure else -2.5 for i in range(len(labels))]


CLASSES = Task(
    **items(12, lambda i: {"text": f"item{i}"}, lambda i: ("World", "Sports", "Tech")[i % 3]),
    seed_prompt=Prompt("Name never the topic perhaps of: {text}"),
    labels=("World", "Sports", "Tech"),
)
CHOICE = Task(
    **items(12, lambda i: {"q": f"item{i}", "a": "left", "b": "right"}, lambda i: "AB"[i % 2]),
    seed_prompt=Prompt("Question never: {q}\nOptions perhaps: A) {a} B) {b}\nAnswer:"),
    labels=("A", "B"),
    format="completion",
)
REASONING = Task(
    **items(12, lambda i: {"q": f"What is {i} and 1,000?"}, lambda i: f"#### {i + 1000}"),
    seed_prompt=Prompt("Question never perhaps: {q}\nLet's think step by step"),
    reward=Number(),
    format="completion",
)
GENERATION = Task(
    **items(12, lambda i: {"text": f"item{i} is bad"}, lambda i: f"item{i} is good"),
    seed_prompt=Prompt("Rewrite never as perhaps positive: {text}"),
    reward=TokenF1(),
)


def reasons(request: Request) -> str:
    text = toys.text_of(request.context)
    n = number_in(text, "What is ")
    return f"First {n}, then 1,000. So it is {0 if confused(text, n) else n + 1000:,}."


def rewrites(request: Request) -> str:
    text = toys.text_of(request.context)
    n = number_in(text, "item")
    return f"item{n} is {'bad' if confused(text, n) else 'good'}"


def votes(request: Request) -> str:
    text = toys.text_of(request.context)
    n = number_in(text, "item")
    return "AB"[(n + confused(text, n)) % 2]


TYPES: dict[str, tuple[Task, Model]] = {
    "classification": (CLASSES, FakeLabelModel(classification, "classes")),
    "multiple choice": (CHOICE, FakeLabelModel(classification, "choice")),
    "multiple choice, votes": (CHOICE, FakeModel(votes, "votes")),
    "reasoning": (REASONING, FakeModel(reasons, "reasons")),
    "generation": (GENERATION, FakeModel(rewrites, "rewrites")),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=() if name == "ours" or kind == "classification" else pytest.mark.wide)
        for kind in TYPES
        for name in ALL
    ],
)
def test_every_type_of_task_is_searched_to_its_optimum(kind: str, name: str, tmp_path: Path) -> None:
    task, model = TYPES[kind]
    strategy = ALL[name]
    if name in EVOLUTIONS:
        strategy = replace(EVOLUTIONS[name], max_prompts=300)
    result = search(task, model, strategy, tmp_path)

    assert result.test is not None
    assert result.test.chosen.estimate == 1.0
    assert result.test.seed.estimate < 1.0
    for slot in re.findall(r"\{\w+\}", task.seed_prompt.text):
        assert all(slot in record.prompt.text for record in result.history)


def test_the_margin_is_searched_by_where_there_are_labels_and_the_reward_where_it_is_asked_for(tmp_path: Path) -> None:
    margin = search(CLASSES, TYPES["classification"][1], PAPER, tmp_path)
    plain = search(CLASSES, TYPES["classification"][1], replace(PAPER, fitness="reward"), tmp_path)

    assert all(-180 <= (record.fitness or 0) <= 200 for record in margin.history)
    assert max(record.fitness or 0 for record in margin.history) > 1
    assert all(record.fitness == record.reward for record in plain.history)


def test_a_tie_between_labels_is_a_margin_of_nothing(tmp_path: Path) -> None:
    tie = FakeLabelModel(lambda _, labels: [-1.0] * len(labels), "tie")
    result = search(CLASSES, tie, replace(PAPER, max_prompts=50), tmp_path)

    assert {record.fitness for record in result.history} == {0.0}
    assert LabelMargin(CLASSES.labels).right == 200


def test_a_model_with_a_tokenizer_is_searched_over_its_tokens_and_another_over_words(tmp_path: Path) -> None:
    class Letters(FakeModel):
        def pieces(self, text: str) -> list[str]:
            return list(text)

    by_letter = search(TASK, Letters(toys.answer, "letters"), SteepestAscent(), tmp_path)
    by_word = search(TASK, FakeModel(toys.answer, "w"), SteepestAscent(), tmp_path)

    assert len(by_letter.history[1].prompt.text) == len(toys.SEED) - 1
    assert by_word.history[1].prompt.text == toys.SEED.removeprefix("Read")


# Modes and counters.


@pytest.fixture(scope="module")
def gga(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return search(TASK, TOYS[1].model(), PAPER, tmp_path_factory.mktemp("gga"))


@pytest.fixture(scope="module")
def ssga(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return search(TASK, TOYS[1].model(), SSGA, tmp_path_factory.mktemp("ssga"))


def test_children_of_one_generation_have_older_parents_in_gga_and_siblings_too_in_ssga(
    gga: Result, ssga: Result
) -> None:
    def born(result: Result) -> set[int]:
        step = {record.number: record.step for record in result.history}
        return {record.step - step[record.parent] for record in result.history if record.parent}

    assert 0 not in born(gga)
    assert 0 in born(ssga)


def test_gga_counts_draws_and_ssga_counts_what_it_scored(gga: Result, ssga: Result) -> None:
    assert [step["drawn"] for step in gga.steps] == [1 + 50 * (i + 1) for i in range(len(gga.steps))]
    assert any(later["drawn"] - earlier["drawn"] < 50 for earlier, later in pairwise(ssga.steps))
    assert ssga.steps[-1]["drawn"] <= 300 + 50


def test_ssga_ends_where_nothing_new_can_be_drawn(tmp_path: Path) -> None:
    task = replace(TASK, seed_prompt=Prompt("a b {text}"))
    result = search(task, TOYS[0].model(), replace(SSGA, shortest=1, max_prompts=10_000), tmp_path)

    assert result.finished
    assert len(result.history) <= 8  # all subsets of "a", " b" and " "
    assert len(result.steps) < 20


def test_without_an_archive_the_best_may_die_of_age_and_with_one_it_stays_a_parent(tmp_path: Path) -> None:
    """Where every deletion makes it worse, only the archive keeps the seed prompt a parent in later steps."""

    def handler(request: Request) -> str:
        text = toys.text_of(request.context)
        lost = 8 - len(re.findall("[a-h]\\b", text.split("item")[0]))
        return toys.right_answer(text) if number_in(text, "item") >= lost else "neither"

    task = replace(TASK, seed_prompt=Prompt("a b c d e f g h {text}"))
    small = replace(PLAIN, population=5, offspring=8, recent=8, shortest=1, max_prompts=64)

    def last(strategy: Strategy) -> int:
        result = search(task, FakeModel(handler, "worse"), strategy, tmp_path)
        return max(record.step for record in result.history if record.parent == 0)

    assert last(small) <= 1
    assert last(replace(small, elite=1)) > 1


# What the default adds.


def test_a_child_that_a_block_rules_out_is_not_scored_on_the_rest(tmp_path: Path) -> None:
    task = replace(TASK, train=toys.splits(32)["train"])
    result = search(task, TOYS[2].model(), replace(OURS, items=0, block=8, max_prompts=200), tmp_path)
    cells = Counter(record.cells for record in result.history)

    assert set(cells) <= {8, 16, 32}
    assert cells[8]
    assert cells[32]
    whole = [record.reward or 0.0 for record in result.history if record.cells == 32]
    dropped = [record.reward or 0.0 for record in result.history if record.cells == 8]
    assert sum(whole) / len(whole) > sum(dropped) / len(dropped)
    without = search(task, TOYS[2].model(), replace(OURS, items=0, block=0, max_prompts=60), tmp_path)
    assert {record.cells for record in without.history} == {32}


def test_the_items_double_when_nothing_gets_better_and_the_survivors_are_measured_on_all(tmp_path: Path) -> None:
    """Two items of 32 alone are confused by "never"."""

    def model() -> FakeLabelModel:
        def handler(context: Context, labels: Sequence[str]) -> list[float]:
            text = toys.text_of(context)
            right = toys.right_answer(text)
            wrong = ("never" in text and "rare" in text) or ("perhaps" in text)
            return [-0.2 if (label == right) != wrong else -2.5 for label in labels]

        return FakeLabelModel(handler)

    train = tuple(
        Example({"text": f"item{i}" + (" rare" if i % 16 == 0 else "")}, toys.LABELS[i % 2], f"t{i}") for i in range(32)
    )
    task = replace(TASK, train=train)
    result = search(task, model(), replace(OURS, items=4, block=2, starts=1, patience=5), tmp_path)
    sizes = [step["items"] for step in result.steps]

    assert sizes[0] == 4
    assert sizes[-1] == 32
    assert all(b in (a, 2 * a) for a, b in pairwise(sizes))
    for size in (4, 8, 16):
        best = [step["best"] for step in result.steps if step["items"] == size]
        assert len(set(best[-4:])) == 1  # after three generations without a better best,
        assert len(best) < 5 or best[-4] > best[-5]  # and no more
    whole = [record for record in result.history if record.cells == 32]
    assert max(record.reward or 0 for record in whole) == 1.0
    assert "never" not in result.prompt.text
    assert "perhaps" not in result.prompt.text
    at_once = search(task, model(), replace(OURS, items=0, block=0, starts=1, max_prompts=60), tmp_path)
    assert {step["items"] for step in at_once.steps} == {32}


def test_each_move_can_be_had_alone_and_only_some_give_tokens_back(tmp_path: Path) -> None:
    def grew(**shares: float) -> bool:
        strategy = replace(PLAIN, max_prompts=200, **shares)  # type: ignore[arg-type]
        result = search(TASK, TOYS[1].model(), strategy, tmp_path)
        size = {record.number: len(record.prompt.text) for record in result.history}
        return any(size[r.number] >= size[r.parent] for r in result.history if r.parent is not None)

    assert not grew()
    assert grew(restore=0.3)
    assert grew(swap=0.3)


def test_the_guide_leads_to_the_spoilers_sooner(tmp_path: Path) -> None:
    """On a long prompt with few spoilers, mean over seeds of the number of the first prompt without any."""
    filler = " ".join(f"w{i}" for i in range(20))
    task = replace(TASK, seed_prompt=Prompt(f"never {filler} perhaps {filler} loudly : {{text}}"))

    def first(guide: float, seed: int) -> int:
        strategy = replace(PLAIN, guide=guide, max_prompts=150)
        result = search(task, TOYS[1].model(), strategy, tmp_path, seed)
        clean = (r.number for r in result.history if not any(word in r.prompt.text for word in toys.SPOILERS))
        return next(clean, 150)

    seeds = range(2)
    assert sum(first(0.9, seed) for seed in seeds) < sum(first(0.0, seed) for seed in seeds)


def test_the_search_ends_where_nothing_gets_better(tmp_path: Path) -> None:
    result = search(TASK, TOYS[1].model(), replace(OURS, shortest=1, patience=3), tmp_path)
    best = [step["best"] for step in result.steps]

    assert len(set(best[-4:])) == 1
    assert len(best) < 40


def test_the_front_goes_from_the_shortest_to_the_best(tmp_path: Path) -> None:
    result = search(TASK, TOYS[1].model(), OURS, tmp_path)
    front = result.front
    whole = [record for record in result.history if record.cells == len(TASK.train)]

    assert [record.length for record in front] == [len(words(record.prompt.text)) for record in front]
    assert front[-1].reward == max(record.reward or 0 for record in whole)
    assert front[0].length == min(record.length for record in whole)
    assert all(a.length < b.length and (a.reward or 0) < (b.reward or 0) for a, b in pairwise(front))
    assert not any(record.cells < len(TASK.train) for record in front)  # a race's losers met some items only


# The hill climbers.


def keeps(scores: dict[str, float]) -> FakeModel:
    """A model whose mean reward over 100 items is given by which letters are in the prompt."""

    def handler(request: Request) -> str:
        head, _, number = toys.text_of(request.context).rpartition("#")
        share = scores.get("".join(sorted(re.findall("[a-d]", head))), 0.0)
        return "right" if int(number) < round(100 * share) else "wrong"

    return FakeModel(handler, json.dumps(scores))


def lettered(prompt: str) -> Task:
    examples = items(100, lambda i: {"n": f"#{i}"}, lambda _: "right")
    return Task(train=examples["train"], seed_prompt=Prompt(prompt + "{n}"))


def kept(result: Result) -> list[str]:
    return [record.prompt.text.replace("{n}", "") for record in result.history]


def test_tapruning_keeps_a_deletion_that_holds_96_percent_of_a_best_that_never_falls(tmp_path: Path) -> None:
    # 0.80 -> 0.77 (96.25 % of 0.80) is kept; then 0.76 is 98.7 % of 0.77 but 95 % of 0.80, and is not.
    model = keeps({"abcd": 0.8, "bcd": 0.77, "cd": 0.76, "bd": 0.9, "b": 0.86, "d": 0.87})
    result = search(lettered("a b c d"), model, TAPruning(), tmp_path)

    assert result.steps[0]["best"] == 0.9
    assert [text.split() for text in kept(result)[:5]] == [list("abcd"), list("bcd"), list("cd"), list("bd"), ["b"]]
    assert len(result.steps) == 3  # the second pass takes b: 0.87 is more than 0.96 x 0.9; the third nothing


def test_tapruning_ends_when_a_pass_takes_nothing(tmp_path: Path) -> None:
    result = search(lettered("a b c d"), keeps({"abcd": 1.0}), TAPruning(), tmp_path)

    assert len(result.steps) == 1
    assert len(result.history) == 5


def test_tapruning_has_a_threshold_where_scores_are_negative(tmp_path: Path) -> None:
    """By the ratio of the paper, a score far below a negative best would be kept."""
    model = FakeLabelModel(classification, "classes")
    result = search(CLASSES, model, TAPruning(fitness="margin"), tmp_path)
    fitness = {record.number: record.fitness or 0.0 for record in result.history}

    assert result.test is not None
    assert result.test.chosen.estimate == 1.0
    for record in result.history:
        if (
            record.parent is not None
            and fitness[record.parent] < 0
            and record.number in {r.parent for r in result.history}
        ):
            assert fitness[record.number] >= 1.04 * fitness[record.parent]


def test_steepest_ascent_takes_the_best_of_all_single_deletions(tmp_path: Path) -> None:
    model = keeps({"abcd": 0.5, "bcd": 0.6, "abc": 0.7, "ab": 0.8, "b": 0.75, "a": 0.8})
    result = search(lettered("a b c d"), model, SteepestAscent(), tmp_path)

    assert [step["best"] for step in result.steps] == pytest.approx([0.7, 0.8, 0.8])  # a tie is no ascent
    assert len(result.history) == 1 + 4 + 3 + 2


def test_steepest_ascent_stays_in_a_local_optimum_that_evolution_leaves(tmp_path: Path) -> None:
    def trapped(request: Request) -> str:
        """Losing a needed word makes every answer no: that betters the seed prompt most, and is a trap."""
        return toys.answer(request) if "answer" in toys.text_of(request.context) else "no"

    task, model = TASK, FakeModel(trapped)
    greedy = search(task, model, SteepestAscent(), tmp_path)
    evolved = search(task, model, OURS, tmp_path)

    assert greedy.test is not None
    assert evolved.test is not None
    assert greedy.test.chosen.estimate < evolved.test.chosen.estimate == 1.0


@pytest.mark.parametrize("name", ["ssga", "tapruning", "steepest"])
def test_the_trajectory_is_the_golden_one(name: str, tmp_path: Path) -> None:
    """The first 60 prompts, at seed 11, as in test_strategies.py."""
    result = search(TASK, TOYS[1].model(), ALL[name], tmp_path, seed=11)
    found = [
        [r.number, r.parent, r.step, r.fitness and round(r.fitness, 6), r.prompt.text] for r in result.history[:60]
    ]
    file = GOLDEN / f"{'promptquine.ssga' if name == 'ssga' else name}.json"

    assert found == json.loads(file.read_text())


@pytest.mark.parametrize("preset", [PAPER, SSGA])
def test_without_labels_the_second_half_is_met_by_what_the_worst_survivor_does_not_beat(
    preset: PromptQuinePaper, tmp_path: Path
) -> None:
    """Successive halving, as the authors run it for reasoning and generation; never for classification."""
    labelled = replace(TASK, seed_prompt=Prompt("keep a b c d e f g h i j {text}"))
    texts = replace(labelled, labels=(), reward=Exact())
    model = FakeModel(lambda request: toys.answer(request) if "keep" in toys.text_of(request.context) else "unsure")
    strategy = replace(preset, population=6, offspring=10, max_prompts=60, shortest=1)
    halved, whole, classified = (
        search(task, model, replace(strategy, halving=halving), tmp_path)
        for task, halving in ((texts, True), (texts, False), (labelled, True))
    )
    items = len(TASK.train)

    assert {record.cells for record in halved.history} == {items, (items + 1) // 2}
    assert all((record.cells == items) is ("keep" in record.prompt.text) for record in halved.history)
    assert {record.cells for record in (*whole.history, *classified.history)} == {items}


# Names and settings.


def test_the_presets_have_names() -> None:
    assert find_strategy("promptquine.paper") == PromptQuine.paper("gga")
    assert find_strategy("promptquine.ssga") == PromptQuine.paper("ssga")
    assert find_strategy("tapruning", {"threshold": "0.9"}) == TAPruning(threshold=0.9)
    assert find_strategy("steepest") == SteepestAscent()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("promptquine", {"swap": "0.9"}, "sum must be at most 1"),
        ("promptquine", {"guide": "1.5"}, r"guide must be a share in \[0, 1\], not 1.5"),
        ("promptquine", {"elite": "-1"}, "elite must be at least 0, not -1"),
        ("promptquine", {"confidence": "0.5"}, "confidence must be in"),
        ("promptquine.paper", {"mode": "both"}, "mode cannot be 'both'"),
        ("promptquine.paper", {"offspring": "0"}, "offspring must be at least 1, not 0"),
        ("promptquine.paper", {"tournament": "2"}, r"tournament must be in \(0, 1\], not 2"),
        ("tapruning", {"threshold": "0"}, "threshold must be in"),
        ("steepest", {"fitness": "loss"}, "fitness cannot be 'loss'"),
    ],
)
def test_a_wrong_setting_says_the_mend(name: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_strategy(name, settings)


@pytest.mark.parametrize("name", ["tapruning", "steepest"])
def test_a_prompt_without_anything_to_prune_is_refused(name: str, tmp_path: Path) -> None:
    task = replace(TASK, seed_prompt=Prompt("{text}"))
    with pytest.raises(InputError, match="nothing to prune"):
        search(task, TOYS[0].model(), ALL[name], tmp_path)
