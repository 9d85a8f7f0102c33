"""Guard a prompt: is a new prompt worse than the old one, and is a model still the one that a run measured?

One sequential test for both. After each look at the items, the paired interval decides or the test goes on. Replies come from
the scorer that searches use.
"""

from __future__ import annotations

import json
import math
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.errors import BudgetExhaustedError, InputError, TransientModelError
from promptopt.evaluation.caller import Caller, nothing
from promptopt.evaluation.ledger import Budget, Ledger
from promptopt.evaluation.racing import sizes
from promptopt.evaluation.scorer import Scorer
from promptopt.evaluation.silence import Silence
from promptopt.evaluation.verdicts import verdict
from promptopt.memo.memo import Memo
from promptopt.optimization.job import read_budget, read_model, read_task
from promptopt.parsing.slots import check_slots
from promptopt.prompt import Example, Prompt, Prompts
from promptopt.randomness import named_generator
from promptopt.replies import Response
from promptopt.results.gate import GateResult, items_needed
from promptopt.results.outcomes import FILE, SAME, read_outcomes
from promptopt.results.result import Result
from promptopt.results.saved_prompt import read_prompt
from promptopt.rewards import Contains, Exact, Judge, Label, Number, TokenF1
from promptopt.statistics import Interval, late_alpha_spending, paired_score_interval
from promptopt.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from promptopt.models.base import Model
    from promptopt.results.gate import Decision
    from promptopt.results.outcomes import Outcome
    from promptopt.rewards import Reward
    from promptopt.scores import Scores
    from promptopt.statistics.arrays import Floats
    from promptopt.tracking.display import Display

DEFAULT_MARGIN, DEFAULT_ERROR = 0.02, 0.05

_FIRST_LOOK = 16  # items
_FAILED_SHARE = 0.01  # above this share of failed replies nothing is decided (design, decision 4)
_LAST_STEP = 0.75  # of all items: a look after more of them would leave too little error to the last
_SPLITS = ("test", "validation", "train")
_SAFETY_FACTOR = 1.2  # on the usage of an item as measured so far, if tokens or dollars are limited
_ROUNDING = 1e-9
_UNKNOWN = Interval(math.nan, -math.inf, math.inf)
_INFERRED: tuple[Reward, ...] = (Exact(), Contains(), Number(), TokenF1())


class Pair(NamedTuple):
    """Rewards of both sides on the same items, [E] each; NaN where a reply failed."""

    old: Floats
    new: Floats


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What the test has to show: that new minus old is above `bound`.

    Args: as of `compare_prompts`.
    """

    margin: float
    better: bool
    error: float

    @property
    def bound(self) -> float:
        """The difference to be above for "passed", and below for "worse"."""
        return 0.0 if self.better else -self.margin

    def decide(self, difference: Interval) -> Decision:
        """Return the decision that an interval allows."""
        if difference.low > self.bound:
            return "passed"
        return "worse" if difference.high < self.bound else "undecided"


@dataclass
class SequentialTest:
    """A sequential test in progress, and what it found so far.

    Args:
        aim: what it has to show.
        items: [N] in the order in which they are used.
        measure: returns the rewards of the first items; those measured before cost nothing.
        ledger: the budget, and what was used.
        decision: so far.
        difference: at the last look, with its interval.
        pair: rewards at the last look.
        looks: numbers of items after which the test looked.
        notes: remarks for the reader.
    """

    aim: Aim
    items: Sequence[Example]
    measure: Callable[[Sequence[Example]], Pair]
    ledger: Ledger
    decision: Decision = "undecided"
    difference: Interval = _UNKNOWN
    pair: Pair | None = None
    looks: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Look after 16 items, then twice as many and so on, until the interval decides or the items or the budget end.

        Raises:
            InputError: the budget does not cover the first look.
        """
        planned = look_sizes(len(self.items))
        spent = 0.0
        for size, error in zip(planned, late_alpha_spending(planned, self.aim.error), strict=True):
            affordable = self._affordable(size)
            cut = affordable < size
            # A look that the budget cuts short is the last one, and gets all of the error that is left.
            covered = (not cut or affordable > self.looks[-1]) and self._look(
                affordable, self.aim.error - spent if cut else error
            )
            spent += error
            if self.decision != "undecided":
                return
            if cut or not covered:
                self.notes.append(f"budget limits the test to {self.looks[-1]:,} of {len(self.items):,} items")
                return

    def _look(self, size: int, error: float) -> bool:
        """Measure the first items and decide; return whether the budget covered it."""
        try:
            self.pair = self.measure(self.items[:size])
        except BudgetExhaustedError as ended:
            if not self.looks:
                raise self._too_small() from ended
            return False
        self.looks.append(size)
        self.difference = paired_score_interval(self.pair.new, self.pair.old, 1 - error)
        self.decision = self.aim.decide(self.difference)
        return True

    def _affordable(self, size: int) -> int:
        """Return how many of the first `size` items the budget covers, by the usage of the items so far."""
        used, done = self.ledger.total(self.ledger.logical), self.looks[-1] if self.looks else 0
        if not done:
            return size
        for name, left in self.ledger.left().items():
            per_item = getattr(used, name) / done * (1.0 if name == "calls" else _SAFETY_FACTOR)
            if per_item * (size - done) > left:
                size = done + int(left / per_item)
        return size

    def _too_small(self) -> InputError:
        least = min(_FIRST_LOOK, len(self.items))
        return InputError(
            f"the budget of {self.ledger.limit} is too small for the first look, at {least} items with every call that "
            "they take: raise the budget"
        )


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
    prompts = [_prompt_of(given, name, task) for given, name in ((old, "old"), (new, "new"))]
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
    folder = Path(run)
    result, recorded = Result.load(folder), read_outcomes((folder if folder.is_dir() else folder.parent) / FILE)
    if not recorded:
        raise InputError(f"{run} holds no {FILE} with test replies: give the folder of a run whose task has test items")
    loaded = _rebuilt_task(result, recorded, str(run)) if task is None else read_task(task)
    old = _matched(loaded, recorded, str(run))
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
        test.notes.append(f"the run used another model, or other settings of it: {before} then, {today} today")
    found = _result(test, scorer, (str(run), "today"), drift=True)
    return replace(found, changed=len(changed))


def look_sizes(items: int) -> list[int]:
    """Return the cumulative numbers of items of the looks: 16, 32, 64, ... and all; none between 3/4 of all and all."""
    out = sizes(items, _FIRST_LOOK)
    return [size for size in out if size == items or size <= _LAST_STEP * items]


def fewest_items(margin: float, error: float = DEFAULT_ERROR) -> int:
    """Return the fewest items on which 0/1 rewards that never differ show non-inferiority by `margin`."""
    from scipy.special import ndtri  # noqa: PLC0415  loaded when used: importing the package stays light

    items = 1
    while True:
        quantile = float(ndtri(1 - late_alpha_spending(look_sizes(items), error)[-1] / 2))
        least = quantile**2 * (1 - margin) / margin  # Tango's score test without differences rejects above this
        if items > least:
            return items
        items += max(int(least - items) // 2, 1)


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
    splits = {name: getattr(task, name) for name in _SPLITS}
    if not splits.get(split):
        filled = ", ".join(name for name, examples in splits.items() if examples)
        raise InputError(f"the task has no items in the split {split!r}: use one of {filled}")
    examples: tuple[Example, ...] = splits[split]
    return examples


def _shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"the seed must be a whole number, 0 or more, not {seed!r}")
    return [examples[i] for i in named_generator(seed, "gate").permutation(len(examples)).tolist()]


def _prompt_of(given: Prompt | str | Path, side: str, task: Task) -> Prompt:
    """Return a prompt that fits the task."""
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
    """Raise InputError if a model costs money and no budget is set."""
    judge = {"judge": task.reward.model} if isinstance(task.reward, Judge) else {}
    for role, each in ({"task": model} | judge | dict(task.models or {})).items():
        if budget.dollars is not None and each.price is None:
            raise InputError(
                f"a budget in dollars needs the price of the {role} model: set --price INPUT,OUTPUT in dollars per million tokens, "
                "or use a budget in calls or tokens"
            )
        if budget == Budget() and (each.price is None or any(each.price)):
            raise InputError(
                f"the {role} model costs money and no budget is set: set one, such as --budget '500 calls' or budget='2 dollars'"
            )


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
            f"{failed} replies failed, more than {_FAILED_SHARE:.0%}, so nothing is decided; run again to ask for them again. The "
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


def _matched(task: Task, recorded: Sequence[Outcome], run: str) -> dict[Example, Outcome]:
    """Return the task's examples with what the run recorded for them; items whose recorded reply failed are left out."""
    known = {example.id: example for name in reversed(_SPLITS) for example in getattr(task, name)}
    out = {}
    for outcome in recorded:
        example = known.get(outcome.id)
        same = example is not None and dict(example.inputs) == dict(outcome.inputs) and example.target == outcome.target
        if example is not None and same and outcome.chosen.reward is not None:
            out[example] = outcome
    if not out:
        raise InputError(
            f"none of the test items of {run} is in the task {task.name!r}: give the task that the run was made of"
        )
    return out


def _rebuilt_task(result: Result, recorded: Sequence[Outcome], run: str) -> Task:
    """Return a task that repeats the test of a run, as far as its folder says how.

    Raises:
        InputError: it does not; the message says what is missing.
    """
    request, advice = result.request, "give the run's task too (--task FILE, task=)"
    if isinstance(result.prompt, Prompts) or any(o.chosen.events or o.chosen.trace for o in recorded):
        raise InputError(f"each test reply of {run} took several calls, which its folder does not describe: {advice}")
    if result.test is None or result.test.read == "labels":
        raise InputError(f"the answers of {run} were chosen among labels, which its folder does not list: {advice}")
    if request.get("format") not in ("chat", "completion"):
        raise InputError(f"{run} does not say how its items were sent: {advice}")
    examples = [Example(dict(o.inputs), o.target, o.id) for o in recorded]
    targets = sorted({example.target for example in examples if example.target is not None})
    labels = tuple(targets) if 1 < len(targets) <= len(examples) / 2 else ()
    rewards: list[Reward] = [*_INFERRED, *([Label(labels)] if labels else [])]
    reward = next((each for each in rewards if _reproduces(each, examples, recorded)), None)
    if reward is None:
        raise InputError(f"no built-in reward reproduces the rewards that {run} recorded: {advice}")
    settings = {name: request[name] for name in ("max_tokens", "temperature", "top_p", "top_k") if name in request}
    return Task(
        train=tuple(examples),
        seed_prompt=result.prompt,
        reward=reward,
        labels=labels if isinstance(reward, Label) else (),
        logprobs=False,
        template=result.layout.template if result.layout else "",
        format=request["format"],
        name=result.task,
        stop=tuple(request.get("stop", ())),
        notes=(f"the reward is taken to be {type(reward).__name__}, which reproduces all recorded rewards",),
        **settings,
    )


def _reproduces(reward: Reward, examples: Sequence[Example], recorded: Sequence[Outcome]) -> bool:
    """Whether a reward gives every recorded reply its recorded reward."""
    for example, outcome in zip(examples, recorded, strict=True):
        for answer in (outcome.seed, outcome.chosen):
            if answer.reward is None:
                continue
            try:
                found = verdict(reward, example, Response(answer.text)).reward
            except InputError:  # it cannot be used with these targets
                return False
            if abs(found - answer.reward) > _ROUNDING:
                return False
    return True
