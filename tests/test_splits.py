from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.data.rows import UnusableRowError, read_rows, to_examples, values_by_id
from promptopt.data.splits import Splits, sample_examples, split_by_column, split_by_hash, split_examples, split_folds
from promptopt.errors import InputError
from promptopt.prompt import Example

SHARES = st.sampled_from([(0.4, 0.3, 0.3), (0.5, 0.25, 0.25), (1 / 3, 1 / 3, 1 / 3)])


def item(text: str, target: str | None = None, name: str = "") -> Example:
    return Example({"text": text}, target, name or text)


def items(count: int, start: int = 0) -> list[Example]:
    return [item(f"text {i}", "ab"[i % 2]) for i in range(start, start + count)]


def sides(splits: Splits) -> dict[str, int]:
    return {example.id: side for side, part in enumerate(splits) for example in part}


# ---------------------------------------------------------------- by hash


@given(st.sets(st.text(max_size=3), min_size=20, max_size=60), st.integers(0, 2**40), SHARES)
def test_a_split_by_hash_shares_out_every_item_once_nearly_in_proportion_and_in_order(
    texts: set[str], seed: int, shares: tuple[float, float, float]
) -> None:
    examples = [item(text, None, f"id {text}") for text in sorted(texts)]
    splits = split_by_hash(examples, seed, shares)
    assert sorted((e for part in splits for e in part), key=examples.index) == examples
    for part in splits:
        assert list(part) == sorted(part, key=examples.index)
    for below, share in ((len(splits.train), shares[0]), (len(splits.train) + len(splits.validation), 1 - shares[2])):
        assert abs(below - share * len(examples)) <= 0.05 * len(examples) + 1e-9


@given(st.permutations(range(40)), st.integers(0, 99))
def test_the_order_of_the_rows_moves_none(order: list[int], seed: int) -> None:
    examples = items(40)
    assert sides(split_by_hash([examples[i] for i in order], seed)) == sides(split_by_hash(examples, seed))


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_come_and_go_move_no_other(seed: int) -> None:
    before, after = sides(split_by_hash(items(1000), seed)), sides(split_by_hash(items(1000, 300), seed))
    assert all(after[name] == side for name, side in before.items() if name in after)


def test_of_fifty_rows_few_move_when_ten_are_added() -> None:
    moved = 0
    for seed in range(100):
        before, after = sides(split_by_hash(items(50), seed)), sides(split_by_hash(items(60), seed))
        moved += sum(after[name] != side for name, side in before.items())
    assert 50 < moved < 200  # 1.2 a file by `python -m benchmarks.splits`


def test_the_same_text_is_in_one_split_whatever_its_target_and_its_fields_order() -> None:
    pairs = [Example({"a": f"{i}", "b": "x"}, "yes", f"{i} yes") for i in range(50)]
    pairs += [Example({"b": "x", "a": f"{i}"}, "no", f"{i} no") for i in range(50)]
    side = sides(split_by_hash(pairs, 0))
    assert all(side[f"{i} yes"] == side[f"{i} no"] for i in range(50))


def test_a_split_by_hash_is_the_same_on_every_machine_and_release() -> None:
    ids = [[e.id for e in part] for part in split_by_hash([item(f"{i} é") for i in range(10)], 0)]
    assert ids == [["0 é", "3 é", "4 é", "6 é"], ["2 é", "8 é", "9 é"], ["1 é", "5 é", "7 é"]]


def test_seeds_give_independent_splits() -> None:
    one, other = (sides(split_by_hash(items(2000), seed)) for seed in (1, 2))
    both = Counter((one[name], other[name]) for name in one)
    expected = np.outer((0.4, 0.3, 0.3), (0.4, 0.3, 0.3)) * 2000
    assert all(abs(both[i, j] - expected[i, j]) < 60 for i in range(3) for j in range(3))


def test_a_group_is_never_divided_even_if_it_is_most_of_the_file() -> None:
    examples = [
        replace(e, group=f"group {min(i // 6, 5)}") for i, e in enumerate(items(60))
    ]  # the last has half of the rows
    for seed in range(20):
        side = sides(split_by_hash(examples, seed))
        assert len({(e.group, side[e.id]) for e in examples}) == 6


def test_each_label_occurs_in_train() -> None:
    examples = [*items(40), item("rare one", "rare"), item("rare two", "rare")]
    absent = 0
    for seed in range(30):
        free, held = (split_by_hash(examples, seed, labels=labels) for labels in ((), ("a", "b", "rare", "none")))
        absent += all(e.target != "rare" for e in free.train)
        assert any(e.target == "rare" for e in held.train)
        moved = [name for name, side in sides(free).items() if sides(held)[name] != side]
        assert len(moved) == all(e.target != "rare" for e in free.train)
    assert absent > 3


def test_a_group_too_large_for_its_file_leaves_a_split_empty() -> None:
    examples = [replace(e, group="one") for e in items(10)]
    with pytest.raises(InputError, match=r"10 examples in shares of \[0\.4, 0\.3, 0\.3\] leave .* empty"):
        split_by_hash(examples, 0)


# ---------------------------------------------------------------- by a column


def test_values_are_known_by_the_ids_of_the_examples() -> None:
    rows = read_rows([{"x": "a", "g": " one "}, {"x": "b", "g": ""}, {"x": "c", "g": "two"}])
    dropped: list[UnusableRowError] = []
    examples = to_examples(rows, inputs=["x"], label=None, filled="g", dropped=dropped)
    assert [e.id for e in examples] == ["item:1", "item:3"]
    assert values_by_id(rows, "g") == {"item:1": "one", "item:3": "two"}
    assert "item 2: 'g' is blank" in str(dropped[0])


def test_of_rows_with_one_id_the_first_has_the_value() -> None:
    rows = read_rows([{"id": "k", "g": "one"}, {"id": "k", "g": "two"}])
    assert values_by_id(rows, "g", id="id") == {"k": "one"}


def test_names_of_splits_may_be_short() -> None:
    examples = items(6)
    names = dict(zip((e.id for e in examples), ["train", "dev", "VAL", "valid", "validation", "Test"], strict=True))
    assert [len(part) for part in split_by_column(examples, names, "part")] == [1, 4, 1]


def test_another_name_is_refused() -> None:
    with pytest.raises(
        InputError,
        match=r"'text 0': the column 'part' holds 'tset', did you mean 'test'\?; a split is train, validation",
    ):
        split_by_column(items(1), {"text 0": "tset"}, "part")


# ---------------------------------------------------------------- at random


@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=3, max_size=80),
    st.integers(0, 2**32),
    st.sampled_from([(0.4, 0.3, 0.3), (0.5, 0.25, 0.25), (1 / 3, 1 / 3, 1 / 3)]),
)
def test_a_split_shares_out_every_item_once_in_proportion_and_in_order(
    targets: list[str | None], seed: int, shares: tuple[float, float, float]
) -> None:
    examples = [item(f"{i}", target) for i, target in enumerate(targets)]
    splits = split_examples(examples, seed, shares)
    assert sorted((e for part in splits for e in part), key=examples.index) == examples
    for part, share in zip(splits, shares, strict=True):
        assert list(part) == sorted(part, key=examples.index)
        assert abs(len(part) - share * len(examples)) < 1.5
        for target in set(targets):
            assert abs(sum(e.target == target for e in part) - share * targets.count(target)) < 2.5


def test_a_split_depends_on_the_seed_alone() -> None:
    examples = [item(f"{i}", "ab"[i % 2]) for i in range(10)]
    assert split_examples(examples, 1) == split_examples(list(examples), 1)
    assert split_examples(examples, 1) != split_examples(examples, 2)
    ids = [[e.id for e in part] for part in split_examples(examples, 0)]
    assert ids == [["2", "3", "5", "8"], ["0", "6", "9"], ["1", "4", "7"]]  # so on every machine and release


@pytest.mark.parametrize(
    ("count", "shares", "said"),
    [
        (2, (0.4, 0.3, 0.3), "2 examples in shares of [0.4, 0.3, 0.3] leave test empty"),
        (10, (0.98, 0.01, 0.01), "leave validation empty"),
        (10, (0.5, 0.5, 0.5), "sum to 1, not [0.5, 0.5, 0.5]"),
        (10, (1.0, 0.0, 0.0), "three positive numbers"),
        (10, (0.5, 0.5), "three positive numbers"),
    ],
)
def test_a_split_that_would_be_empty_is_refused(count: int, shares: tuple[float, ...], said: str) -> None:
    with pytest.raises(InputError) as caught:
        split_examples([item(str(i)) for i in range(count)], 0, shares)
    assert said in str(caught.value)


def test_a_sample_has_its_size_the_proportions_and_the_order() -> None:
    examples = [item(f"{i}", "aab"[i % 3]) for i in range(90)]
    sample = sample_examples(examples, 30, 5, "test")
    assert len(sample) == 30
    assert abs(sum(e.target == "a" for e in sample) - 20) <= 1
    assert list(sample) == sorted(sample, key=examples.index)
    assert sample == sample_examples(examples, 30, 5, "test")
    assert sample != sample_examples(examples, 30, 5, "train")
    assert sample_examples(examples, 90, 5, "test") == tuple(examples)


# ---------------------------------------------------------------- in folds


@given(st.integers(5, 60), st.integers(2, 5), st.integers(0, 99))
def test_folds_share_out_every_item_once_evenly_by_target_and_in_order(count: int, folds: int, seed: int) -> None:
    examples = items(count)
    parts = split_folds(examples, folds, seed)
    assert sorted((e for part in parts for e in part), key=examples.index) == examples
    for part in parts:
        assert list(part) == sorted(part, key=examples.index)
        assert abs(len(part) - count / folds) < 1
        assert abs(sum(e.target == "a" for e in part) - (count + 1) // 2 / folds) < 2


def test_equal_inputs_are_in_one_fold() -> None:
    examples = [item(f"text {i // 3}", "ab"[i % 2], f"{i}") for i in range(60)]
    texts = [{e.inputs["text"] for e in part} for part in split_folds(examples, 5, 0)]
    assert sum(map(len, texts)) == 20


def test_too_few_items_for_the_folds_are_refused() -> None:
    with pytest.raises(InputError, match="4 different examples do not fill 5 folds: give more examples"):
        split_folds(items(4), 5, 0)
