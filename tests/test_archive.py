"""The archive: what is known of each cell, and what is read from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptopt.prompt import Example, Prompt
from promptopt.search.archive import Archive, Gain, well_measured

P, Q, R = Prompt("P"), Prompt("Q"), Prompt("R")
EXAMPLES = tuple(Example({"text": f"item{i}"}, "yes", f"item{i}") for i in range(6))
NAN = math.nan


def of(*rows: list[float]) -> np.ndarray:
    """Return rewards [P, E, 1]."""
    return np.array(rows)[:, :, None]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.0, 0.25, 1.0, NAN])), max_size=30))
def test_a_candidates_means_are_of_the_first_value_of_each_cell(cells: list[tuple[int, float]]) -> None:
    archive, first = Archive(), dict[int, float]()
    candidate = archive.enter(P)
    for cell, value in cells:
        archive.add([P], [EXAMPLES[cell]], of([2 * value]), of([value]))
        if not math.isnan(value):
            first.setdefault(cell, value)

    assert (candidate.cells, candidate.examples) == (len(first), len(first))
    assert candidate.failed == len({cell for cell, _ in cells} - set(first))
    assert candidate.fitness == pytest.approx(np.mean(list(first.values())) if first else NAN, nan_ok=True)
    assert candidate.reward == pytest.approx(2 * candidate.fitness, nan_ok=True)
    asked = {cell for cell, _ in cells}
    assert {example.id for example in archive.examples_of(P)} == {EXAMPLES[cell].id for cell in asked}


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_running_mean_does_not_depend_on_the_calls_that_brought_its_values(blocks: list[list[float]]) -> None:
    values = [value for block in blocks for value in block]
    examples = tuple(Example({"text": str(i)}, None, str(i)) for i in range(len(values)))
    at_once, in_blocks, done = Archive(), Archive(), 0
    at_once.add([P], examples, of(values))
    for block in blocks:
        in_blocks.add([P], examples[done : done + len(block)], of(block))
        done += len(block)

    assert in_blocks[P] == at_once[P]  # to the last bit


def test_rewards_are_means_over_replicates_and_nan_where_unknown() -> None:
    archive = Archive()
    archive.add([P], EXAMPLES[:2], of([0.0, 1.0]))
    archive.add([P, Q], EXAMPLES[1:3], np.array([[[1.0, 0.0], [NAN, 0.5]], [[NAN, NAN], [1.0, 1.0]]]))

    np.testing.assert_array_equal(archive.rewards([P, Q]), [[0.0, 0.5, 0.5], [NAN, NAN, 1.0]])
    np.testing.assert_array_equal(
        archive.rewards([Q, R, P], [EXAMPLES[2], EXAMPLES[5], EXAMPLES[0]]),
        [[1.0, NAN, NAN], [NAN, NAN, NAN], [0.5, NAN, 0.0]],
    )
    assert archive.examples_of(Q) == EXAMPLES[1:3]
    assert archive.examples_of(R) == ()
    assert (archive[Q].cells, archive[Q].failed) == (2, 2)


def test_a_fitness_of_its_own_takes_the_place_of_the_tasks_reward() -> None:
    """A filter may score by the task's reward before a search by a margin begins: the two are never mixed."""
    archive = Archive()
    archive.add([P, Q], EXAMPLES[:3], of([1.0, 0.0, 1.0], [1.0, 1.0, 1.0]))
    archive.add([P], EXAMPLES[:2], of([1.0, 0.0]), of([40.0, 20.0]))
    archive.add([P], EXAMPLES[3:4], of([0.0]))

    assert (archive[P].fitness, archive[P].cells, archive[P].failed) == (30.0, 2, 0)
    assert (archive[P].reward, archive[P].examples) == (0.5, 4)
    np.testing.assert_array_equal(archive.rewards([P], EXAMPLES[:4]), [[40.0, 20.0, NAN, NAN]])
    np.testing.assert_array_equal(archive.task_rewards([P], EXAMPLES[:4]), [[1.0, 0.0, 1.0, 0.0]])
    assert archive[Q].fitness == archive[Q].reward == 1.0


def test_an_example_given_twice_is_one_cell() -> None:
    archive = Archive()
    archive.add([P], [EXAMPLES[0], EXAMPLES[1], EXAMPLES[0]], of([1.0, 0.0, 0.25]))

    assert (archive[P].fitness, archive[P].cells) == (0.5, 2)


def test_a_paired_gain_is_over_the_cells_that_both_have() -> None:
    archive = Archive()
    archive.add([P], EXAMPLES[:4], of([1.0, 1.0, 0.0, NAN]))
    archive.add([Q], EXAMPLES[1:], of([0.0, 0.0, 1.0, 1.0, 1.0]))

    assert archive.paired(P, Q) == Gain(0.5, 0.5, 2)
    assert archive.paired(Q, P) == Gain(-0.5, 0.5, 2)
    mean, error, examples = archive.paired(P, R)
    assert math.isnan(mean)
    assert math.isnan(error)
    assert examples == 0


def test_candidates_are_ranked_among_those_that_were_measured_well() -> None:
    archive = Archive()
    fair, good, lucky, gone = (Prompt(text) for text in ("fair", "good", "lucky", "gone"))
    archive.add([fair, good, P], EXAMPLES, of([0.5] * 6, [0.75] * 6, [0.5] * 6))
    archive.add([lucky, gone], EXAMPLES[:2], of([1.0] * 2, [NAN] * 2))

    assert [candidate.prompt for candidate in archive.ranked()] == [good, fair, P]
    assert [candidate.prompt for candidate in archive.ranked([lucky, Q])] == [lucky]


def test_a_row_with_half_of_the_most_cells_is_well_measured() -> None:
    @dataclass
    class Row:
        cells: int

    assert [row.cells for row in well_measured([Row(8), Row(3), Row(4)])] == [8, 4]
    assert well_measured(list[Row]()) == []
