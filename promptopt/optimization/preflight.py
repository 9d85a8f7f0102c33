"""Checks before a search: the job itself, one call to each model, the seed prompt on the training items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptopt.data.near_duplicates import near_duplicates
from promptopt.errors import BudgetExhaustedError, InputError, PassingModelError
from promptopt.evaluation.ledger import Budget
from promptopt.models.base import Request
from promptopt.optimization.stages import Stages, too_small
from promptopt.prompt import Message
from promptopt.replies import Failure, Response
from promptopt.rewards import MEETS_TARGET, Exact, Judge
from promptopt.strategies.base import needs_no_labels

if TYPE_CHECKING:
    from promptopt.evaluation.scorer import Scorer
    from promptopt.optimization.job import Job
    from promptopt.prompt import Example
    from promptopt.rewards import Reward

_ITEMS_A_LABEL = 5  # answers that stand so often look like labels
_FIRST_CALL = 2.0  # one call says to this factor what the others will take


def check(job: Job) -> None:
    """Refuse, before anything is spent, what cannot work."""
    if not isinstance(job.seed, int) or job.seed < 0:
        raise InputError(f"the seed must be a whole number, 0 or more, not {job.seed!r}")
    bare = next((item for item in job.task.train if item.target is None), None)
    if bare and isinstance(job.task.reward, MEETS_TARGET) and not needs_no_labels(job.strategy):
        raise InputError(
            f"training item {bare.id!r} has no label, by which {type(job.strategy).__name__} searches: label the "
            "training items, or take the strategy unsupervised"
        )
    for role, model in job.roles.items():
        if job.budget.dollars is not None and model.price is None:
            raise InputError(
                f"a budget in dollars needs the price of the {role} model: give --price INPUT,OUTPUT in dollars "
                "per million tokens, or a budget in calls or tokens"
            )
    if job.budget.calls is not None and job.budget.calls < job.least_calls:
        raise too_small(job.task, job.budget, f"at least {job.least_calls:,} calls")


def check_budget(job: Job) -> None:
    """Refuse to spend money without a limit."""
    for role, model in job.roles.items():
        costs = model.price is None or any(model.price)
        if costs and job.budget == Budget():
            raise InputError(
                f"the {role} model costs money and there is no budget: give one, such as --budget '500 calls' or "
                "budget='2 dollars'"
            )


def start(job: Job, scorer: Scorer, stages: Stages) -> None:
    """Score the seed prompt on the training items, which says what the run's calls take.

    Raises:
        InputError: the budget does not pay for comparing one candidate.
    """
    stages.check(_FIRST_CALL)
    try:
        scorer.score([job.task.seed_prompt], job.task.train, reward=_start_reward(job))
    except BudgetExhaustedError as error:
        raise stages.too_small() from error


def _start_reward(job: Job) -> Reward | None:
    """Return a reward of zero for strategies that need no labels: the first calls must not need targets."""
    free = needs_no_labels(job.strategy) and not isinstance(job.task.reward, Judge)
    return _unread if free else None


def call_each_model(job: Job, scorer: Scorer, stages: Stages) -> None:
    """Make one call to each model, of a kind that the run makes anyway or that costs next to nothing.

    Raises:
        InputError: the first reply holds no text, or the budget does not pay for a call.
        FinalModelError, PassingModelError: a model cannot be used at all.
    """
    try:
        first = scorer.score([job.task.seed_prompt], job.task.train[:1], reward=_start_reward(job)).replies[0][0][0]
        _check_first(job, first)
        writer = job.roles.get("writer")
        if writer is not None and writer is not job.model:
            hello = Request(context=(Message("user", "Reply with the word ready."),), max_tokens=8)
            _must_answer("writer", *scorer.caller.generate("writer", writer, [hello]))
    except BudgetExhaustedError as error:
        raise stages.too_small() from error


def _check_first(job: Job, first: Response | Failure) -> None:
    if isinstance(first, Response) and first.speechless:
        raise InputError(
            f"the task model's first reply was cut off at {job.task.max_tokens} tokens, before any text: raise the "
            "task's max_tokens (a model that thinks before it answers needs hundreds or thousands)"
        )
    _must_answer("task", first)


def notes_on(job: Job) -> list[str]:
    """Return what a reader of the result should know of the task, the prices and the data."""
    notes = list(job.task.notes)
    notes += [
        f"the price of the {role} model is not known: what it costs is not counted; --price says it"
        for role, model in job.roles.items()
        if model.price is None
    ]
    items = (*job.task.train, *job.task.validation, *job.task.test)
    told = sorted({item.target for item in items if item.target is not None})
    unseen = [label for label in job.task.labels if label not in told]
    if told and unseen:
        notes.append(f"no item has the label {', '.join(map(repr, unseen))}: nothing is learnt or tested of it")
    if isinstance(job.task.reward, Exact) and 1 < len(told) <= len(items) / _ITEMS_A_LABEL:
        notes.append(
            f"{len(items)} items have {len(told)} answers among them, such as {told[0]!r}: if the model is to choose one of "
            "these, name them as labels"
        )
    pairs = near_duplicates(job.task.train, job.task.validation, job.task.test)
    if pairs:
        first = pairs[0]
        notes.append(
            f"{len(pairs)} near-duplicates stand in two splits, such as {first.first_id} ({first.first_split}) and "
            f"{first.second_id} ({first.second_split}): the test flatters what has seen them"
        )
    return notes


def _unread(example: Example, response: Response) -> float:  # noqa: ARG001  a reward's signature
    return 0.0


def _must_answer(role: str, reply: Response | Failure) -> None:
    if isinstance(reply, Failure):
        raise PassingModelError(f"the first call to the {role} model failed: {reply.reason}")
