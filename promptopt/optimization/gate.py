"""Guard a prompt: is a new prompt worse than the old one, and is a model still the one that a run measured?

One sequential test for both (`sequential_test`). Replies come from the scorer that searches use.
"""

from __future__ import annotations

import json
import math
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from promptopt.errors import InputError, TransientModelError
from promptopt.evaluation.caller import Caller, nothing
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.scorer import Scorer
from promptopt.evaluation.silence import Silence
from promptopt.memo.memo import Memo
from promptopt.optimization.job import read_budget, read_model, read_task
from promptopt.optimization.preflight import check_limited, check_prices
from promptopt.optimization.recorded_test import SPLITS, matched, read_test, rebuilt_task
from promptopt.optimization.sequential_test import DEFAULT_ERROR, Aim, Pair, SequentialTest, fewest_items
from promptopt.parsing.slots import check_slots
from promptopt.prompt import Example, Prompt, Prompts
from promptopt.randomness import named_generator
from promptopt.replies import Response
from promptopt.results.gate import GateResult, items_needed
from promptopt.results.outcomes import SAME
from promptopt.results.saved_prompt import read_prompt
from promptopt.rewards import Judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.models.base import Model
    from promptopt.scores import Scores
    from promptopt.task import Task
    from promptopt.tracking.display import Display


DEFAULT_MARGIN = 0.02

_FAILED_SHARE = 0.01  # above this share of failed replies nothing is decided (design, decision 4)


def compare_prompts(
    old: Prompt | str | Path,
    new: Prompt | str | Path,
    task: Task | str | Path,
    model: Model | str,
    *,
    margin: float | None = None,
    better: bool = False,
    error: float = DEFAULT_ERROR,
    split: str = "test",
    budget: Budget | str | None = None,
    seed: int = 0,
    memo: Memo | Path | str | None = None,
    display: Display | None = None,
) -> GateResult:
    """Test whether a new prompt is no worse than an old one, on as many items as the decision needs.

    Let d be the mean reward of `new` minus that of `old` over all items like these. By default the test shows non-inferiority: it
    passes if d > -margin, and says "worse" if d < -margin. With `better`, it shows superiority: it passes if d > 0, and says "worse"
    if d < 0. Each wrong answer has a probability of at most error / 2, counting all looks; where neither is shown, it is "undecided".

    The test is group-sequential: looks at 16, 32, 64, ... items and at the last one, in an order drawn by the seed. The error is
    split over the looks by the spending function (n / N)^2 (Kim and DeMets 1987; Lan and DeMets 1983), and the intervals are repeated
    confidence intervals (Jennison and Turnbull 1989) made by `paired_score_interval`. Equal prompts are not scored: they pass, or are
    "undecided" with `better`.

    Args:
        old: a prompt, or the path of a text file, of a JSON file that a run wrote, or of a run's folder.
        new: likewise.
        task: a task, or the path of a task file.
        model: the task model, or its name.
        margin: the largest loss that passes, in rewards; by default 0.02.
        better: whether `new` must be better; there is no margin then.
        error: probability of a wrong decision, over both sides; in (0, 1).
        split: the items: "test", "validation" or "train". A search that made `new` from these items makes the test too favourable.
        budget: the most to use; required for models that cost money.
        seed: decides the order of the items.
        memo: as in `optimize`; known replies are not paid for again.
        display: shows progress; None is silent.

    Returns:
        The decision with its difference, interval, items and calls.

    Raises:
        InputError: an argument cannot be used, or the budget does not cover the first look.
        PermanentModelError, TransientModelError: the model cannot be used.
    """
    task, model, limit = read_task(task), read_model(model), read_budget(budget)
    aim = _read_aim(margin, error, better=better)
    prompts = [fitting_prompt(given, name, task) for given, name in ((old, "old"), (new, "new"))]
    names = [str(given) if isinstance(given, str | Path) else name for given, name in ((old, "old"), (new, "new"))]
    items = _shuffled(_split(task, split), seed)
    _check_budget(task, model, limit)
    ledger = Ledger(limit)
    with nullcontext(memo) if isinstance(memo, Memo) else Memo(memo) as store:
        scorer = _scorer(task, model, store, ledger, display)

        def measure(examples: Sequence[Example]) -> Pair:
            scores = _score(scorer, prompts, examples)
            return Pair(*scores.per_example)

        test = SequentialTest(aim, items, measure, ledger)
        if prompts[0] == prompts[1]:
            test.difference, test.decision = SAME, "undecided" if better else "passed"
        else:
            test.run()
    return _result(test, scorer, names, drift=False)


def check_drift(
    run: str | Path,
    model: Model | str,
    task: Task | str | Path | None = None,
    *,
    margin: float | None = None,
    error: float = DEFAULT_ERROR,
    budget: Budget | str | None = None,
    seed: int = 0,
    display: Display | None = None,
) -> GateResult:
    """Test whether a model still earns the rewards that a run recorded in its test: has it changed behind its name?

    The run's chosen prompt is sent again for its test items. The recorded rewards are the old side and the new ones the new side of
    the test that `compare_prompts` makes. Replies are not read from the memo, which would give the recorded ones, and not written to
    it.

    Args:
        run: the folder of a run with a test.
        model: the model, or its name.
        task: the run's task, or the path of its file. Not needed if the model wrote its replies in one call, and if the
            recorded rewards are those of `Exact`, `Contains`, `Number` or `TokenF1`.
        margin: the largest loss that passes, in rewards; by default 0.02.
        error: as in `compare_prompts`.
        budget: as in `compare_prompts`.
        seed: as in `compare_prompts`.
        display: as in `compare_prompts`.

    Returns:
        The decision, and how many replies changed.

    Raises:
        InputError: an argument cannot be used, the run has no test replies, or they cannot be repeated without its task.
        PermanentModelError, TransientModelError: the model cannot be used.
    """
    model, limit = read_model(model), read_budget(budget)
    aim = _read_aim(margin, error, better=False)
    result, recorded = read_test(run)
    loaded = rebuilt_task(result, recorded, str(run)) if task is None else read_task(task)
    old = matched(loaded, recorded, str(run))
    _check_budget(loaded, model, limit)
    ledger = Ledger(limit)
    changed: set[str] = set()
    with tempfile.TemporaryDirectory() as place, Memo(place) as store:
        scorer = _scorer(loaded, model, store, ledger, display)

        def measure(examples: Sequence[Example]) -> Pair:
            scores = _score(scorer, [result.prompt], examples)
            for example, (reply,) in zip(examples, scores.replies[0], strict=True):
                if isinstance(reply, Response) and reply.text != old[example].chosen.text:
                    changed.add(example.id)
            rewards = [old[example].chosen.reward for example in examples]
            return Pair(np.array([np.nan if r is None else r for r in rewards]), scores.per_example[0])

        test = SequentialTest(aim, _shuffled(list(old), seed), measure, ledger)
        test.run()
    before, today = result.models.get("task"), json.loads(json.dumps(dict(model.fingerprint)))
    if before is not None and before != today:
        test.notes.append(f"the run used another model, or other model settings: {before} then, {today} now")
    found = _result(test, scorer, (str(run), "today"), drift=True)
    return replace(found, changed=len(changed))


def _read_aim(margin: float | None, error: float, *, better: bool) -> Aim:
    if not 0 < error < 1:
        raise InputError(f"the error must be a probability between 0 and 1, such as 0.05, not {error!r}")
    if better:
        if margin:
            raise InputError(
                f"a margin of {margin!r} contradicts better: to show that a prompt is better, leave the margin out"
            )
        return Aim(margin=0.0, better=True, error=error)
    value = DEFAULT_MARGIN if margin is None else margin
    if not 0 < value < math.inf:
        raise InputError(
            f"the margin must be a number above 0, the largest loss in reward that passes, such as 0.02, not {value!r}; to show "
            "that a prompt is better, use --better (better=True)"
        )
    return Aim(margin=value, better=False, error=error)


def _split(task: Task, split: str) -> tuple[Example, ...]:
    splits = {name: getattr(task, name) for name in SPLITS}
    if not splits.get(split):
        filled = ", ".join(name for name, examples in splits.items() if examples)
        raise InputError(f"the task has no items in the split {split!r}: use one of {filled}")
    examples: tuple[Example, ...] = splits[split]
    return examples


def _shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"the seed must be a whole number, 0 or more, not {seed!r}")
    return [examples[i] for i in named_generator(seed, "gate").permutation(len(examples)).tolist()]


def fitting_prompt(given: Prompt | str | Path, side: str, task: Task) -> Prompt:
    """Return a prompt, or that of a file or run, if it fits the task.

    Raises:
        InputError: it has other names or slots than the task; the message calls it the prompt of that side, such as "old".
    """
    prompt = read_prompt(given) if isinstance(given, str | Path) else given
    where = str(given) if isinstance(given, str | Path) else f"the {side} prompt"
    if not isinstance(prompt, Prompt):
        raise InputError(f"the {side} prompt must be a Prompt or the path of a file or folder, not {given!r}")
    names = prompt.names if isinstance(prompt, Prompts) else ()
    seeds = task.seed_prompt.names if isinstance(task.seed_prompt, Prompts) else ()
    if set(names) != set(seeds):
        held, needed = (f"the prompts {', '.join(n)}" if n else "one prompt" for n in (names, seeds))
        raise InputError(f"{where} holds {held}, and the task needs {needed}: give a file or run of the same task")
    if not names:
        check_slots(prompt.text, task.fields, where, task.template)
    return prompt


def _check_budget(task: Task, model: Model, budget: Budget) -> None:
    """Raise InputError if a model costs money and no budget is set, or one in dollars and no price is known."""
    judge = {"judge": task.reward.model} if isinstance(task.reward, Judge) else {}
    models = {"task": model} | judge | dict(task.models or {})
    check_prices(models, budget)
    check_limited(models, budget)


def _scorer(task: Task, model: Model, memo: Memo, ledger: Ledger, display: Display | None) -> Scorer:
    watch = nothing if display is None else lambda: display.count(ledger)
    return Scorer(task, model, Caller(memo, ledger, watch=watch))


def _score(scorer: Scorer, prompts: Sequence[Prompt], examples: Sequence[Example]) -> Scores:
    """Score prompts as the test of a run does.

    Raises:
        TransientModelError: every reply failed.
    """
    scorer.silence = Silence()  # each look scores the items of those before again
    scores = scorer.score(prompts, examples, written=scorer.tests_text)
    if scores.failed == scores.rewards.size:
        first = scorer.first_failure or "no score"
        raise TransientModelError(f"all {scores.failed} replies failed; the first: {first}", role="task")
    return scores


def _result(test: SequentialTest, scorer: Scorer, names: Sequence[str], *, drift: bool) -> GateResult:
    aim, pair, ledger = test.aim, test.pair or Pair(np.zeros(0), np.zeros(0)), test.ledger
    gap, bound = pair.new - pair.old, aim.bound
    failed, decision = int(np.isnan(pair.old).sum() + np.isnan(pair.new).sum()), test.decision
    used = int((~np.isnan(gap)).sum())
    notes = [*test.notes, *scorer.task.notes, *ledger.notes(), *scorer.tally.notes]
    notes += scorer.silence.notes(scorer.task.max_tokens)
    if failed > _FAILED_SHARE * (1 if drift else 2) * gap.size:
        decision = "undecided"
        notes.append(
            f"{failed} replies failed, more than {_FAILED_SHARE:.0%}, so nothing is decided; run again to retry them. The "
            f"first: {scorer.first_failure or 'a judge gave no score'}"
        )
    needed = None
    if decision == "undecided" and test.looks:
        needed = items_needed(test.difference, used, bound)
        notes += _advice(test, needed)
    logical, paid = ledger.total(ledger.logical), ledger.total(ledger.paid)
    lost, won = (
        tuple(e.id for e, g in zip(test.items, gap.tolist(), strict=False) if g * sign > 0) for sign in (-1, 1)
    )
    return GateResult(
        decision=decision,
        difference=test.difference,
        items=used,
        available=len(test.items),
        calls=logical.calls,
        calls_made=paid.calls,
        dollars=paid.dollars,
        margin=aim.margin,
        better=aim.better,
        error=aim.error,
        looks=tuple(test.looks),
        old=names[0],
        new=names[1],
        task=scorer.task.name,
        model=str(scorer.model.fingerprint.get("model", scorer.model)),
        drift=drift,
        lost=lost,
        won=won,
        failed=failed,
        items_needed=needed,
        notes=tuple(notes),
    )


def _advice(test: SequentialTest, needed: int | None) -> list[str]:
    """Return what would lead to a decision."""
    advice, aim = [], test.aim
    if not aim.better and test.difference.high < 0:
        advice.append("the new side is worse than the old one, though perhaps by no more than the margin")
    if not aim.better and aim.margin < 1:
        fewest = fewest_items(aim.margin, aim.error)
        if len(test.items) < fewest:
            advice.append(
                f"even rewards that never differ show a margin of {aim.margin:g} only with {fewest:,} items or more: add items, or "
                f"allow a larger margin (0.05 takes {fewest_items(0.05, aim.error):,}, 0.1 takes {fewest_items(0.1, aim.error):,})"
            )
    if needed is not None:
        advice.append(f"at a difference like this one, about {needed:,} items would decide (power 0.8)")
    return advice
