"""Which demonstrations a search may start from beside those of the seed prompt."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from promptopt import Demonstrations, Example, FakeLabelModel, Prompt, PromptQuine, Task, optimize
from promptopt.search.demonstrations import stratified_shuffle, with_other_demonstrations

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LABELS = ("yes", "no")


def labelled(count: int, name: str = "item") -> tuple[Example, ...]:
    return tuple(Example({"text": f"{name}{i}"}, LABELS[i % 2], f"{name}{i}") for i in range(count))


def showing(items: Sequence[Example]) -> Prompt:
    return Prompt("{text} =>", Demonstrations(tuple(items)))


def shown(prompt: Prompt) -> tuple[Example, ...]:
    assert prompt.demonstrations is not None
    return prompt.demonstrations.items


def test_other_demonstrations_have_the_same_targets_and_are_left_out_of_the_items() -> None:
    seed, items = showing(labelled(3, "shown")), labelled(32)
    starts = with_other_demonstrations(seed, items, 10, np.random.default_rng(0))

    assert starts.prompts[0] == seed
    assert len(set(starts.prompts)) == len(starts.prompts) == 10
    for other in starts.prompts[1:]:
        assert other.text == seed.text
        assert sorted(item.target or "" for item in shown(other)) == ["no", "yes", "yes"]
        assert not set(shown(other)) & set(starts.examples)
    assert len(starts.examples) >= 24  # a quarter at most is drawn from
    assert [item for item in items if item in starts.examples] == list(starts.examples)  # in their order


def test_a_target_that_no_item_has_is_stood_in_for_by_any_item() -> None:
    seed = showing([Example({"text": "2 + 2"}, "4", "a"), Example({"text": "3 + 4"}, "7", "b")])
    items = tuple(Example({"text": f"{i} + 10"}, str(i + 10), f"item{i}") for i in range(16))
    starts = with_other_demonstrations(seed, items, 4, np.random.default_rng(0))

    assert len(starts.prompts) == 4
    assert all(len(set(shown(prompt))) == 2 for prompt in starts.prompts)


@pytest.mark.parametrize(
    ("prompt", "count", "items"),
    [
        (Prompt("{text} =>"), 8, 32),  # nothing is shown
        (Prompt("{text} =>", Demonstrations(labelled(8, "shown"), nearest=2)), 8, 32),  # others for each item
        (showing(labelled(2, "shown")), 1, 32),  # none is wanted
        (showing(labelled(2, "shown")), 8, 7),  # a quarter of the items does not show both labels
    ],
)
def test_where_nothing_else_can_be_shown_the_prompt_is_the_only_start(prompt: Prompt, count: int, items: int) -> None:
    starts = with_other_demonstrations(prompt, labelled(items), count, np.random.default_rng(0))

    assert starts == ([prompt], labelled(items))


def test_a_search_leaves_poor_demonstrations_and_scores_no_item_that_it_shows(tmp_path: Path) -> None:
    """Items are answered rightly after a demonstration whose number is divisible by 5; the seed prompt shows none."""

    def handler(context: object, labels: Sequence[str]) -> list[float]:
        *before, query = map(int, re.findall(r"item(\d+)", str(context)))
        right, good = LABELS[query % 2], any(number % 5 == 0 for number in before)
        return [-0.1 if (label == right) == good else -2.0 for label in labels]

    items = labelled(64)
    task = Task(
        train=tuple(item for item in items if item.id not in ("item1", "item2"))[:48],
        validation=tuple(Example({"text": f"item{i}"}, LABELS[i % 2], f"v{i}") for i in range(64, 96)),
        seed_prompt=showing((items[1], items[2])),
        labels=LABELS,
        template="{text} =>",
        format="completion",
    )

    def best(starts: int) -> float:
        strategy = PromptQuine(starts=starts, max_prompts=60, fitness="reward", shortest=1)
        found = optimize(task, FakeLabelModel(handler), strategy, memo=tmp_path)
        assert starts == 1 or not re.search(r"item[12]\b", str(found.prompt))
        return max(record.validation or 0.0 for record in found.history)

    assert best(16) == 1.0
    assert best(1) == 0.0


def test_a_start_that_is_better_before_pruning_does_not_crowd_out_the_seed_prompt(tmp_path: Path) -> None:
    """The seed prompt is right on half of the items, and on all without "never"; any other is on three of four, always."""

    def handler(context: object, labels: Sequence[str]) -> list[float]:
        query = int(re.findall(r"item(\d+)", str(context))[-1])
        seed = "plain" in str(context)
        wrong = "never" in str(context) and query % 4 >= 2 if seed else query % 8 >= 6
        return [-2.0 if (label == LABELS[query % 2]) == wrong else -0.1 for label in labels]

    items = labelled(96)
    shown_first = tuple(Example({"text": f"plain never item{i}"}, LABELS[i % 2], f"shown{i}") for i in (90, 91))
    task = Task(
        train=items[:64],
        validation=items[64:90],
        seed_prompt=showing(shown_first),
        labels=LABELS,
        template="{text} =>",
        format="completion",
    )
    found = optimize(task, FakeLabelModel(handler), PromptQuine(max_prompts=400, shortest=1), memo=tmp_path)

    assert max(record.validation or 0.0 for record in found.history) == 1.0
    assert "never" not in str(found.prompt)
    assert len({step["start"] for step in found.steps[:3]}) == 3  # a generation of each in turn


def test_the_first_items_have_about_their_share_of_each_target() -> None:
    items = tuple(
        Example({"text": str(i)}, target, f"{target}{i}")
        for target, count in (("a", 60), ("b", 30), ("c", 10))
        for i in range(count)
    )
    orders = [stratified_shuffle(items, np.random.default_rng(seed)) for seed in range(20)]

    for order in orders:
        assert sorted(item.id for item in order) == sorted(item.id for item in items)
        for first in (10, 20, 50):
            assert abs(sum(item.target == "a" for item in order[:first]) - 0.6 * first) <= 2
            assert abs(sum(item.target == "c" for item in order[:first]) - 0.1 * first) <= 1
    assert len({order[0].id for order in orders}) > 5


def test_items_without_targets_are_shuffled() -> None:
    items = tuple(Example({"text": str(i)}, None, str(i)) for i in range(50))
    order = stratified_shuffle(items, np.random.default_rng(0))

    assert sorted(order, key=items.index) == list(items)
    assert order != items
