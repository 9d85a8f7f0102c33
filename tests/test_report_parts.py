"""The parts of a report: axes, changes of prompts, the picture of the test, the order of candidates, curves over seeds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from results import BOUNDLESS, HISTORY, SEED, a_result, an_outcome

from promptopt import Demonstrations, Example, Prompt, Prompts
from promptopt.prompt import Layout, Message
from promptopt.replies import Call
from promptopt.report.axes import axis_over
from promptopt.report.curves import Point
from promptopt.report.overview import export_command, picture, program_flow
from promptopt.report.prompt_changes import prompt_changes
from promptopt.report.ranking import ranked, replies_of
from promptopt.report.seed_curves import Level, joined, layers, lines, seed_curve

SHOWN = Demonstrations(
    (Example({"text": "parcel late"}, "delivery", "1"), Example({"text": "card refused"}, "billing", "2"))
)
COMPLETION = Layout(fields=("text",), template="Message: {text}\nTeam:", format="completion")
CHAT = Layout(fields=("text",), template="{text}")

# ---------------------------------------------------------------- axes


@pytest.mark.parametrize(
    "values",
    [[0.579], [0.579, 0.5790001], [0, 1168], [7, 7, 7], [0.0], [-3.2, 1e6], [], [math.nan, None], [0.31, 0.69]],
)
def test_an_axis_covers_the_data_with_three_ticks_or_more_that_differ(values: list[float | None]) -> None:
    axis = axis_over(values)
    finite = [value for value in values if value is not None and math.isfinite(value)]

    assert 3 <= len(axis.values) <= 8
    assert all(axis.values[0] <= value <= axis.values[-1] for value in finite)
    assert len({axis.label(value) for value in axis.values}) == len(axis.values)
    assert all(float(axis.label(value).replace(",", "")) == pytest.approx(value) for value in axis.values)


# ---------------------------------------------------------------- changes


def test_a_prompt_whose_demonstrations_were_pruned_is_compared_with_the_seed_prompt_written_out() -> None:
    seed = Prompt("Message: {text}\nTeam:", SHOWN)
    chosen = Prompt("Message: parcel\nTeam: delivery\n\nMessage: {text}\nTeam:")
    ((_, changes),) = prompt_changes(seed, chosen, COMPLETION)

    assert [(one.before, one.after) for one in changes] == [
        ("Message: parcel late\nTeam: delivery", "Message: parcel\nTeam: delivery"),
        ("Message: card refused\nTeam: billing", None),
        ("Message: {text}\nTeam:", "Message: {text}\nTeam:"),
    ]


def test_turns_are_compared_with_turns() -> None:
    turns = (Message("user", "parcel late"), Message("assistant", "delivery"))
    ((_, changes),) = prompt_changes(Prompt("Say the team.", SHOWN), Prompt("Say.", turns=turns), CHAT)

    assert [(one.label, one.before, one.after) for one in changes] == [
        ("user", "parcel late", "parcel late"),
        ("assistant", "delivery", "delivery"),
        ("user", "card refused", None),
        ("assistant", "billing", None),
        ("text", "Say the team.", "Say."),
    ]


def test_demonstrations_are_compared_with_demonstrations() -> None:
    fewer = Demonstrations(SHOWN.items[1:], nearest=1)
    ((_, changes),) = prompt_changes(Prompt("Old words.", SHOWN), Prompt("New text.", fewer), None)

    assert [(one.label, one.before, one.after) for one in changes] == [
        ("text", "Old words.", "New text."),
        ("demonstration", "parcel late -> delivery", None),
        ("demonstrations", None, "the 1 nearest of 1"),
        ("demonstration", "card refused -> billing", "card refused -> billing"),
    ]


def test_a_program_has_the_changes_of_each_prompt() -> None:
    before = Prompts({"query": Prompt("Search."), "answer": Prompt("Answer.")})
    changes = prompt_changes(before, before.replaced("query", Prompt("Search well.")), None)

    assert [name for name, _ in changes] == ["query", "answer"]
    assert [(one.before, one.after) for one in changes[0][1]] == [("Search.", "Search well.")]


# ---------------------------------------------------------------- the first screen


def test_the_picture_places_intervals_on_one_axis_and_repeats_nothing_of_the_headline() -> None:
    drawn = picture(a_result())
    assert drawn is not None
    seed, chosen = drawn.bars

    assert (seed.label, chosen.label) == ("0.400 to 0.600", "0.650 to 0.850")
    assert seed.left is not None
    assert chosen.left is not None
    assert seed.left < seed.mark < seed.left + seed.width < chosen.mark < chosen.left + chosen.width <= 100
    assert picture(a_result(test=None)) is None


def test_an_unbounded_interval_has_no_bar_and_a_kept_prompt_one_row() -> None:
    unbounded, kept = picture(a_result(test=BOUNDLESS)), picture(a_result(prompt=SEED))

    assert unbounded is not None
    assert unbounded.bars[1].left is None
    assert kept is not None
    assert [(bar.name, bar.label) for bar in kept.bars] == [("seed prompt, kept", "")]


def test_a_program_is_drawn_in_the_order_of_its_calls() -> None:
    trace = tuple(Call(name, (("question", "?"),), "said") for name in ("query", "query", "answer"))
    outcome = an_outcome(0, 1.0, 1.0)

    assert program_flow([replace(outcome, chosen=replace(outcome.chosen, trace=trace))]) == [
        ("query", "2"),
        ("answer", "1"),
    ]
    assert program_flow([outcome]) == []
    assert (
        export_command(a_result(prompt=Prompts({"a": SEED}))) == "promptopt export runs/x --as python --output FOLDER"
    )


def test_candidates_scored_on_few_replies_come_after_those_scored_on_all() -> None:
    few = replace(HISTORY[1], number=3, reward=1.0, fitness=1.0, cells=2, failed=0, validation=1.0, validated=60)
    raced = replace(HISTORY[1], number=4, fitness=0.9, validation=1.0, validated=8)
    order = ranked((HISTORY[0], HISTORY[1], few, raced))

    assert [record.number for record in order] == [1, 4, 0, 3]
    assert [replies_of(record, 12) for record in order] == ["11", "11", "12", "2 of 12"]


# ---------------------------------------------------------------- curves over seeds


def curve(*levels: tuple[int, float]) -> list[Point]:
    return [Point(0, calls, 0.0, reward) for calls, reward in levels]


def test_a_curve_over_seeds_begins_when_each_has_a_score_and_ends_together() -> None:
    both = seed_curve("a", [curve((10, 0.4), (30, 0.6)), curve((20, 0.5))], 50)

    assert both.levels == (Level(20, 0.45, 0.4, 0.5), Level(30, 0.55, 0.5, 0.6), Level(50, 0.55, 0.5, 0.6))
    assert both.at(19) is None
    assert both.at(49) == Level(30, 0.55, 0.5, 0.6)
    assert seed_curve("b", [curve((10, 0.4)), []], 50).levels == ()


def test_equal_curves_are_one_line_with_both_names_and_no_two_lines_look_alike() -> None:
    curves = [seed_curve(f"{i}", [curve((10, i / 40))], 50) for i in range(30)]
    same = joined([curves[0], curves[1], curves[0]._replace(name="twin")])

    assert [one.name for one in same] == ["0, twin (equal)", "1"]
    assert len({(line.colour, line.dash) for line in lines(curves)}) == 30
    band, line = layers(same)
    assert band["mark"]["type"] == "area"
    assert line["encoding"]["strokeDash"]["scale"]["domain"] == ["0, twin (equal)", "1"]
