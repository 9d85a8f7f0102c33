"""Check a judge against people: read scores, or ask the judge for them, and measure agreement and bias."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.data.rows import read_rows
from promptopt.data.score_files import UNIT, check_column, check_scale, read_score
from promptopt.errors import InputError, TransientModelError
from promptopt.evaluation.caller import Caller, nothing, request_keys
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer, judge_request
from promptopt.memo.memo import Memo
from promptopt.models.usage import reply_token_range
from promptopt.optimization.job import read_budget
from promptopt.optimization.preflight import check_limited, check_prices
from promptopt.prompt import Example, Prompt
from promptopt.replies import Response
from promptopt.results.judge_check import JudgeCheck
from promptopt.statistics.agreement import cohen_kappa, rank_correlation
from promptopt.statistics.calibration import calibrate
from promptopt.statistics.prediction_powered import MIN_HUMAN, prediction_powered_interval
from promptopt.statistics.regression import slope_interval
from promptopt.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from promptopt.data.rows import Row
    from promptopt.data.score_files import Scale
    from promptopt.rewards import Judge
    from promptopt.statistics import Interval
    from promptopt.statistics.arrays import Floats
    from promptopt.tracking.display import Display

INPUT = "input: "
"""Start of the names of columns with inputs, as in `test.csv`."""


class _Scored(NamedTuple):
    """Scores of a judge [E], NaN where it gave none, and the calls made."""

    scores: Floats
    calls: int
    first_failure: str


def check_judge(
    data: str | Path | Iterable[Mapping[str, Any]],
    judge: Judge | None = None,
    *,
    human: str = "human",
    score: str = "judge",
    reply: str = "reply",
    inputs: Sequence[str] | None = None,
    target: str | None = None,
    scale: Scale = UNIT,
    judge_scale: Scale = UNIT,
    budget: Budget | str | None = None,
    memo: Memo | Path | str | None = None,
    display: Display | None = None,
    announce: Callable[[str], None] = nothing,
) -> JudgeCheck:
    """Measure how far a judge's scores agree with human scores of the same replies.

    Rows without a human score are left out. With `judge`, it scores the replies first, through the memo and the budget.

    Args:
        data: a CSV, TSV, JSON or JSONL file, or rows.
        judge: scores the replies; None if the column `score` holds its scores.
        human: column of human scores.
        score: column of the judge's scores.
        reply: column of the replies; needed by `judge`, and for the effect of length.
        inputs: columns that the judge is shown as the input; by default those that start with "input: ", without that word.
        target: column of the right answer, which the judge is shown as the reference.
        scale: lowest and highest human score.
        judge_scale: the same of the column `score`.
        budget: the most to use; required for judges that cost money.
        memo: as in `optimize`; known verdicts are not paid for again.
        display: shows progress; None is silent.
        announce: called with the cost, before the first call.

    Raises:
        InputError: the data or an argument cannot be used, or the budget does not cover the calls.
        PermanentModelError, TransientModelError: the judge cannot be used.
    """
    every = read_rows(data)
    check_column(every, human, "the human scores")
    check_column(
        every, reply if judge is not None else score, "the replies" if judge is not None else "the judge's scores"
    )
    scores = [read_score(row, human, check_scale(scale)) for row in every]
    rows = [row for row, value in zip(every, scores, strict=True) if value is not None]
    people = np.array([value for value in scores if value is not None], dtype=np.float64)
    if people.size < 2:  # noqa: PLR2004  a calibration needs one to fit and one to test
        raise InputError(f"the column {human!r} holds {people.size} scores: give at least 2, better 50")
    if judge is None:
        values = [read_score(row, score, check_scale(judge_scale)) for row in rows]
        scored = _Scored(np.array([math.nan if v is None else v for v in values]), 0, "")
    else:
        examples = [_example(row, inputs, target) for row in rows]
        replies = [Response(row.values.get(reply, "")) for row in rows]
        ledger = _limited(judge, budget, len(replies))
        watch = nothing if display is None else lambda: display.count(ledger)
        with nullcontext(memo) if isinstance(memo, Memo) else Memo(memo) as store:
            caller = Caller(store, ledger, watch=watch)
            announce(_cost(judge, examples, replies, caller))
            scored = _ask(judge, examples, replies, caller)
    lengths = np.array([float(len(row.values.get(reply, ""))) for row in rows])
    return judge_check(people, scored.scores, lengths, calls=scored.calls, first_failure=scored.first_failure)


def judge_check(
    people: Floats, judge: Floats, lengths: Floats, *, calls: int = 0, first_failure: str = ""
) -> JudgeCheck:
    """Compare scores.

    Args:
        people: [E] human scores, in 0 to 1.
        judge: [E] the judge's, in 0 to 1; NaN where it gave none.
        lengths: [E] of the replies in characters; 0 is unknown.
        calls: calls to the judge.
        first_failure: why the first score is missing.

    Raises:
        InputError: fewer than two replies have both scores.
    """
    both = ~np.isnan(judge)
    failed = int((~both).sum())
    if both.sum() < 2:  # noqa: PLR2004  as above
        raise InputError(f"{int(both.sum())} replies have a judge score and a human score: give at least 2, better 50")
    y, f, n = people[both], judge[both], lengths[both]
    two_values = max(np.unique(y).size, np.unique(f).size) <= 2  # noqa: PLR2004
    notes = [] if y.size >= MIN_HUMAN else [f"intervals need at least {MIN_HUMAN} replies with both scores"]
    if failed:
        notes.append(f"{failed} replies have no judge score{f'; the first: {first_failure}' if first_failure else ''}")
    powered = prediction_powered_interval(y, f, np.zeros(0))
    return JudgeCheck(
        items=y.size,
        human=float(y.mean()),
        judge=float(f.mean()),
        offset=_offset(f - y),
        kappa=cohen_kappa(y, f),
        ranks=None if two_values else rank_correlation(y, f),
        correlation=powered.correlation,
        length=_length_effect(y, f, n),
        calibration=calibrate(f, y),
        failed=failed,
        calls=calls,
        notes=tuple(notes),
    )


def _offset(gaps: Floats) -> Interval:
    return prediction_powered_interval(gaps, gaps, np.zeros(0), bounds=(-1.0, 1.0)).human


def _length_effect(people: Floats, judge: Floats, lengths: Floats) -> Interval | None:
    known = lengths > 0
    doublings = np.log2(lengths[known])
    return slope_interval(judge[known], doublings, people[known])


def _example(row: Row, inputs: Sequence[str] | None, target: str | None) -> Example:
    names = [name for name in row.values if name.startswith(INPUT)] if inputs is None else list(inputs)
    if not names:
        raise InputError(
            f"{row.where}: the judge needs the input of each reply: name its columns with --input (inputs=), or call them 'input: NAME'"
        )
    missing = next((name for name in names if name not in row.values), None)
    if missing is not None:
        raise InputError(
            f"{row.where}: there is no column {missing!r} for the judge's input; columns: {', '.join(row.values)}"
        )
    fields = {name.removeprefix(INPUT): row.values[name] for name in names}
    reference = row.values.get(target) if target is not None else None
    return Example(fields, reference, row.where)


def _limited(judge: Judge, budget: Budget | str | None, calls: int) -> Ledger:
    """Return the ledger of a budget.

    Raises:
        InputError: the judge costs money and there is no budget, or the budget in calls does not cover the replies.
    """
    limit, models = read_budget(budget), {"judge": judge.model}
    check_prices(models, limit)
    check_limited(models, limit)
    if limit.calls is not None and limit.calls < calls:
        raise InputError(
            f"the budget of {limit} does not cover {calls:,} calls to the judge: raise the budget, or give fewer rows"
        )
    return Ledger(limit)


def _ask(judge: Judge, examples: Sequence[Example], replies: Sequence[Response], caller: Caller) -> _Scored:
    """Ask the judge for a score of each reply.

    Raises:
        TransientModelError: no reply got a score.
    """
    prompt = Prompt("-")  # never sent: the replies are there
    task = Task(train=tuple(examples), seed_prompt=prompt, reward=judge, name="judge-check")
    scores = Scorer(task, judge.model, caller).apply_reward([prompt], examples, [[[reply] for reply in replies]], judge)
    rewards = scores.rewards[0, :, 0]
    missing = np.flatnonzero(np.isnan(rewards))
    first = next((reason for k in missing.tolist() for reason in scores.reasons[0][k]), "")
    if missing.size == rewards.size:
        raise TransientModelError(
            f"the judge gave no score of {rewards.size} replies; the first: {first}", role="judge"
        )
    return _Scored(rewards, caller.ledger.total(caller.ledger.paid).calls, first)


def _cost(judge: Judge, examples: Sequence[Example], replies: Sequence[Response], caller: Caller) -> str:
    """Return what the calls cost at most, in words."""
    requests = [judge_request(judge, *each) for each in zip(examples, replies, strict=True)]
    keys = dict(zip(request_keys(judge.model, requests), requests, strict=True))
    known = caller.replies_in_memo(keys)
    bounds = [reply_token_range(request).bound(judge.model.price) for key, request in keys.items() if key not in known]
    dollars = sum(bound.dollars for bound in bounds)
    price = "at an unknown price" if judge.model.price is None else f"at most {dollars:.4f} dollars"
    return f"{len(keys):,} calls to the judge, {len(known):,} of them answered by the memo; the others: {price}"
