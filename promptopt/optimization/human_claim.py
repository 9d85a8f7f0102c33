"""Human scores of some test replies of a run: a sheet to fill in, and the claim that follows from it and the recorded rewards."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from promptopt.data.rows import read_rows
from promptopt.data.score_files import UNIT, check_column, check_scale, read_score
from promptopt.errors import InputError
from promptopt.optimization.recorded_test import read_test
from promptopt.randomness import named_generator
from promptopt.results.human_claim import HumanClaim
from promptopt.scores import groups_of
from promptopt.statistics import paired_interval
from promptopt.statistics.prediction_powered import MIN_HUMAN, PredictionPowered, prediction_powered_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from promptopt.data.rows import Row
    from promptopt.data.score_files import Scale
    from promptopt.results.outcomes import Outcome
    from promptopt.results.result import Result
    from promptopt.statistics.arrays import Floats

ITEM, PROMPT, REPLY, HUMAN = "id", "prompt", "reply", "human"
"""Columns of a sheet: the item, whose prompt's reply, the reply, and the score."""

SIDES = ("seed", "chosen")

_DEFAULT_ITEMS = 50
_CODE_LENGTH = 8  # hex digits
_GROUPS = "the test items have groups: intervals with human scores take items as independent, and are too narrow if those of a group are alike"
_SUSPICIOUS = 3.0  # standard errors between rewards of items with and without human scores


class _Test(NamedTuple):
    """The test of a run, as far as both replies have rewards."""

    result: Result
    outcomes: tuple[Outcome, ...]
    rewards: Floats  # [E, 2], seed and chosen


def score_sheet(run: str | Path, items: int | None = None) -> list[dict[str, Any]]:
    """Return a table for people to score: both prompts' replies to randomly drawn test items.

    Two rows an item, or one if the replies are equal, in random order. The column `prompt` has a code that does not say whose reply it is;
    the column `human` is empty. A larger sheet has the items of a smaller one, so a filled one can be extended.

    Args:
        run: the folder of a run with a test.
        items: number of test items to draw; by default 50, or all if there are fewer.

    Raises:
        InputError: the run has no test to score, or fewer items.
    """
    every = sheet_items(*read_test(run), run)
    items = min(_DEFAULT_ITEMS, len(every)) if items is None else items
    if not 1 <= items <= len(every):
        raise InputError(f"the sheet takes 1 to {len(every):,} items, the test items of {run}, not {items:,}")
    rows = [row for item in every[:items] for row in item]
    return sorted(rows, key=lambda row: str(row[PROMPT]))  # a code is a digest, so this order tells nothing


def sheet_items(result: Result, recorded: Sequence[Outcome], run: str | Path) -> list[list[dict[str, Any]]]:
    """Return the rows of the largest sheet, item by item in the order in which sheets draw items: the first n are a random sample.

    Args:
        result: of the run.
        recorded: its test.
        run: its folder, for messages.

    Raises:
        InputError: the run has no test to score.
    """
    test = _scored_test(result, recorded, run)
    fields = tuple(dict.fromkeys(name for outcome in test.outcomes for name in outcome.inputs))
    drawn = named_generator(result.seed, "human scores").permutation(len(test.outcomes))
    return [_item_rows(test.outcomes[k], fields) for k in drawn.tolist()]


def human_claim(
    run: str | Path, human_scores: str | Path | Iterable[Mapping[str, Any]], *, scale: Scale = UNIT
) -> HumanClaim:
    """Return what human scores of some test replies, and the recorded rewards of all, say of a run's chosen prompt.

    Prediction-powered inference: the interval is valid for human scores, however good the rewards are, and shorter than that of the
    human scores alone if the rewards predict them. The items with human scores must be a random sample of the test items, as those of
    `score_sheet` are.

    Args:
        run: the folder of a run with a test.
        human_scores: a file or rows with the columns `id` (item), `prompt` ("seed", "chosen" or the code of a sheet) and `human`
            (score); rows without a score are left out.
        scale: lowest and highest human score.

    Raises:
        InputError: the run has no test, or the scores cannot be used.
    """
    test = _scored_test(*read_test(run), run)
    rows = read_rows(human_scores)
    for column, purpose in ((ITEM, "the items"), (PROMPT, "whose reply it is"), (HUMAN, "the human scores")):
        check_column(rows, column, purpose)
    scores = _human_scores(test.outcomes, rows, check_scale(scale), str(run))
    gaps, rewards = scores[:, 1] - scores[:, 0], test.rewards[:, 1] - test.rewards[:, 0]
    if np.isnan(gaps).all():
        raise InputError("no item has human scores for both prompts: score both replies of each item")
    difference, groups = _powered(gaps, rewards, (-1.0, 1.0)), groups_of(test.outcomes)
    return HumanClaim(
        difference=difference,
        seed=_powered(scores[:, 0], test.rewards[:, 0], UNIT),
        chosen=_powered(scores[:, 1], test.rewards[:, 1], UNIT),
        rewards=paired_interval(test.rewards[:, 1], test.rewards[:, 0], clusters=groups),
        task=test.result.task,
        notes=(*_notes(gaps, rewards, difference), *([_GROUPS] if groups else [])),
    )


def _scored_test(result: Result, recorded: Sequence[Outcome], run: str | Path) -> _Test:
    if result.kept:
        raise InputError(
            f"{run} kept its seed prompt, so there are no two prompts to compare: give a run that chose another one"
        )
    rewards = np.array([[math.nan if r is None else r for r in (o.seed.reward, o.chosen.reward)] for o in recorded])
    both = np.flatnonzero(~np.isnan(rewards).any(axis=1))
    if not both.size:
        raise InputError(f"no test item of {run} has both rewards: run again to retry failed replies")
    return _Test(result, tuple(recorded[k] for k in both.tolist()), rewards[both])


def _code(outcome: Outcome, side: str) -> str:
    """Return a code of a reply that does not say which prompt it is of; equal replies to an item have one code."""
    reply = getattr(outcome, side).text
    return hashlib.sha256(f"{outcome.id}\0{reply}".encode("utf-8", "surrogatepass")).hexdigest()[:_CODE_LENGTH]


def _item_rows(outcome: Outcome, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of an item, sorted by code: two, or one if the replies are equal."""
    replies = {_code(outcome, side): getattr(outcome, side).text for side in SIDES}
    inputs = {f"input: {name}": outcome.inputs.get(name) for name in fields}
    return [
        {ITEM: outcome.id, PROMPT: code, **inputs, "target": outcome.target, REPLY: replies[code], HUMAN: None}
        for code in sorted(replies)
    ]


def _human_scores(outcomes: Sequence[Outcome], rows: Sequence[Row], scale: Scale, run: str) -> Floats:
    """Return human scores [E, 2] of the seed prompt's and the chosen prompt's replies, NaN where there is none."""
    position = {outcome.id: k for k, outcome in enumerate(outcomes)}
    scores: Floats = np.full((len(outcomes), len(SIDES)), np.nan)
    for row in rows:
        value = read_score(row, HUMAN, scale)
        if value is None:
            continue
        item = row.values.get(ITEM, "")
        if item not in position:
            raise InputError(
                f"{row.where}: {item!r} is not a test item of {run} with rewards for both replies: remove the row"
            )
        k = position[item]
        for side in _sides(outcomes[k], row):
            if not np.isnan(scores[k, side]):
                raise InputError(
                    f"{row.where}: the {SIDES[side]} prompt's reply to {item!r} has two human scores: keep one"
                )
            scores[k, side] = value
    return scores


def _sides(outcome: Outcome, row: Row) -> list[int]:
    """Return whose reply a row scores: both prompts' if it has their code."""
    name = row.values.get(PROMPT, "").strip()
    sides = [k for k, side in enumerate(SIDES) if name in (side, _code(outcome, side))]
    if not sides:
        raise InputError(
            f"{row.where}: {PROMPT} is {name!r}, which is not a reply of the run to {outcome.id!r}: write seed or chosen, or keep the sheet's "
            "code"
        )
    return sides


def _powered(human: Floats, rewards: Floats, bounds: tuple[float, float]) -> PredictionPowered:
    scored = ~np.isnan(human)
    return prediction_powered_interval(human[scored], rewards[scored], rewards[~scored], bounds=bounds)


def _notes(human: Floats, rewards: Floats, difference: PredictionPowered) -> list[str]:
    notes = []
    scored = ~np.isnan(human)
    if difference.items < MIN_HUMAN:
        notes.append(f"an interval needs human scores of both replies for at least {MIN_HUMAN} items")
    elif not difference.slope and difference.items < difference.judged:
        notes.append("the rewards hardly vary on the items with human scores, so they do not help")
    some, rest = rewards[scored], rewards[~scored]
    if min(some.size, rest.size) >= MIN_HUMAN:
        error = math.sqrt(float(some.var(ddof=1)) / some.size + float(rest.var(ddof=1)) / rest.size)
        if abs(float(some.mean() - rest.mean())) > _SUSPICIOUS * error > 0:
            notes.append(
                f"rewards differ by {some.mean():+.3f} on the items with human scores and by {rest.mean():+.3f} on the others: the interval "
                "is valid only if the items were drawn at random, as by --sheet"
            )
    return notes
