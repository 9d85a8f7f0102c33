"""Checks before a search: the job itself, one call to each model, and the seed prompt on the training examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptopt.data.near_duplicates import near_duplicates
from promptopt.errors import BudgetExhaustedError, InputError, TransientModelError
from promptopt.evaluation.ledger import Budget
from promptopt.evaluation.rollouts import NO_END, most_rounds
from promptopt.models.base import Request
from promptopt.optimization.objectives import check_objectives, check_usage
from promptopt.optimization.stages import Stages, too_small
from promptopt.prompt import Message, Prompts
from promptopt.replies import TOOL, Failure, Response
from promptopt.rewards import REWARDS_WITH_TARGET, Exact, Judge
from promptopt.strategies.base import needs_no_labels, searches_programs
from promptopt.strategies.registry import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from promptopt.evaluation.scorer import Scorer
    from promptopt.models.base import Model
    from promptopt.optimization.job import Job
    from promptopt.prompt import Example, Prompt
    from promptopt.rewards import Reward
    from promptopt.task import Task

_EXAMPLES_PER_LABEL = 5  # targets that recur this often look like labels
_FIRST_CALL_FACTOR = 2.0  # uncertainty of a usage estimate from one call


def check(job: Job) -> None:
    """Raise InputError, before any call, for a job that cannot work."""
    if not isinstance(job.seed, int) or job.seed < 0:
        raise InputError(f"the seed must be a whole number, 0 or more, not {job.seed!r}")
    unlabelled = next((example for example in job.task.train if example.target is None), None)
    if unlabelled and isinstance(job.task.reward, REWARDS_WITH_TARGET) and not needs_no_labels(job.strategy):
        raise InputError(
            f"training example {unlabelled.id!r} has no label, but {name_of(job.strategy)} needs labels: label the "
            "training examples, or use --strategy unsupervised"
        )
    if (job.task.program is not None) != searches_programs(job.strategy):
        raise InputError(
            f"{name_of(job.strategy)} searches one prompt, and the task has a program of several: use --strategy components"
            if job.task.program is not None
            else f"{name_of(job.strategy)} searches the prompts of a program, and the task has none: use another strategy"
        )
    check_prices(job.roles, job.budget)
    if job.objectives is not None:
        check_objectives(job.objectives, job.task, job.model.price)
    if job.budget.calls is not None and job.budget.calls < job.least_calls:
        raise too_small(job.task, job.budget, f"at least {job.least_calls:,} calls")


def check_prices(models: Mapping[str, Model], budget: Budget) -> None:
    """Raise InputError if the budget is in dollars and the price of a model, by its role, is unknown."""
    for role, model in models.items():
        if budget.dollars is not None and model.price is None:
            raise InputError(
                f"a budget in dollars needs the price of the {role} model: set --price INPUT,OUTPUT in dollars "
                "per million tokens, or use a budget in calls or tokens"
            )


def check_limited(models: Mapping[str, Model], budget: Budget) -> None:
    """Raise InputError if a model, by its role, costs money and no budget is set."""
    for role, model in models.items():
        if budget == Budget() and (model.price is None or any(model.price)):
            raise InputError(
                f"the {role} model costs money and no budget is set: set one, such as --budget '500 calls' or "
                "budget='2 dollars'"
            )


def check_budget(job: Job) -> None:
    """Raise InputError if a model, or code that asks models by itself, costs money and no budget is set."""
    if job.budget == Budget() and any(job.prices.get(TOOL) or ()):
        raise InputError(
            "predict has a price and no budget is set: set one, such as --budget '500 calls' or budget='2 dollars'"
        )
    check_limited(job.roles, job.budget)


def start(job: Job, scorer: Scorer, stages: Stages) -> None:
    """Score the seed prompt on the training examples, which shows how much the run's calls use.

    Raises:
        InputError: the budget does not cover comparing one candidate.
    """
    stages.check(_FIRST_CALL_FACTOR)
    try:
        scorer.score([job.task.seed_prompt], job.task.train, reward=_start_reward(job))
    except BudgetExhaustedError as error:
        raise stages.too_small() from error


def _start_reward(job: Job) -> Reward | None:
    """Return a zero reward for strategies that need no labels: the start-up calls must not need targets either."""
    label_free = needs_no_labels(job.strategy) and not isinstance(job.task.reward, Judge)
    return _zero_reward if label_free else None


def call_each_model(job: Job, scorer: Scorer, stages: Stages) -> None:
    """Make one call to each model: a call that the run needs anyway, or a very short one.

    Raises:
        InputError: the first reply has no text, or the budget does not cover the calls.
        PermanentModelError, TransientModelError: a model cannot be used at all.
    """
    try:
        first = scorer.score([job.task.seed_prompt], job.task.train[:1], reward=_start_reward(job)).replies[0][0][0]
    except BudgetExhaustedError as error:
        endless = job.task.environment is not None and not most_rounds(job.task, job.task.train[:1])
        raise (_endless(job) if endless else stages.too_small()) from error
    _check_first(job, first)
    try:
        writer = job.roles.get("writer")
        if writer is not None and job.has_own_writer:
            hello = Request(context=(Message("user", "Reply with the word ready."),), max_tokens=8)
            _must_answer("writer", *scorer.caller.generate("writer", writer, [hello]))
    except BudgetExhaustedError as error:
        raise stages.too_small() from error


def _endless(job: Job) -> InputError:
    return InputError(
        f"the budget of {job.budget} ended before the first episode did: {NO_END}; if episodes are that long, raise the budget"
    )


def _check_first(job: Job, first: Response | Failure) -> None:
    if isinstance(first, Response) and first.truncated_before_text:
        raise InputError(
            f"the task model's first reply was cut off at {job.task.max_tokens} tokens, before any text: raise the "
            "task's max_tokens (reasoning models need hundreds or thousands)"
        )
    _must_answer("task", first)
    if job.objectives is not None and isinstance(first, Response):
        check_usage(job.objectives, first)


def fields_not_sent(task: Task) -> str:
    """Return a note on fields that no model sees, because the seed prompt has other slots but not theirs; "" if there are none."""
    if task.takes_several_calls or task.format == "caption":
        return ""
    seed, layout = task.seed_prompt, task.layout
    instruction, turn = layout.parts(seed)
    sent = turn + (instruction if layout.prompt_role == "system" else "")
    texts = [field for field in task.fields if field not in task.images]  # images are sent without a slot too
    forgotten = [f"{{{field}}}" for field in texts if f"{{{field}}}" not in sent]
    if not forgotten:
        return ""
    return (
        f"the seed prompt has no slot {', '.join(forgotten)}, so models never see this: add the slot, or leave the field out of the "
        "inputs if only the reward needs it"
    )


def notes_on(job: Job) -> list[str]:
    """Return notes for the result on the strategy, the task, the prices and the data."""
    notes = [*filter(None, [job.chosen, fields_not_sent(job.task)]), *job.task.notes]
    notes += [
        f"the price of the {role} model is unknown: its cost is not included; set it with --price"
        for role, model in job.roles.items()
        if model.price is None and not (role == "writer" and job.writer is None)  # the task model, by default
    ]
    examples = (*job.task.train, *job.task.validation, *job.task.test)
    targets = sorted({example.target for example in examples if example.target is not None})
    unused_labels = [label for label in job.task.labels if label not in targets]
    if targets and unused_labels:
        notes.append(
            f"no example has the label {', '.join(map(repr, unused_labels))}: it is neither trained on nor tested"
        )
    if isinstance(job.task.reward, Exact) and 1 < len(targets) <= len(examples) / _EXAMPLES_PER_LABEL:
        notes.append(
            f"{len(examples)} examples share {len(targets)} different answers, such as {targets[0]!r}: if the model should "
            "choose among these, set them as labels"
        )
    pairs = near_duplicates(job.task.train, job.task.validation, job.task.test)
    if pairs:
        first = pairs[0]
        notes.append(
            f"{len(pairs)} near-duplicates across splits, such as {first.first_id} ({first.first_split}) and "
            f"{first.second_id} ({first.second_split}): test scores may be inflated (data leak)"
        )
    return notes


def notes_on_leaks(task: Task, prompts: Iterable[Prompt]) -> list[str]:
    """Return a note for each held-out split of which prompts show examples, as after a split with another seed."""
    parts = [part for p in prompts for part in ([c for _, c in p.components] if isinstance(p, Prompts) else [p])]
    shown = [dict(item.inputs) for part in parts if part.demonstrations for item in part.demonstrations.items]
    held_out = {"validation": task.validation, "test": task.test}
    counts = {split: sum(dict(e.inputs) in shown for e in examples) for split, examples in held_out.items()}
    return [
        f"the prompt shows {count} of the {split} examples: scores on them may be inflated (data leak); split the data as the "
        "prompt's own run did"
        for split, count in counts.items()
        if count
    ]


def _zero_reward(example: Example, response: Response) -> float:  # noqa: ARG001  a reward's signature
    return 0.0


def _must_answer(role: str, reply: Response | Failure) -> None:
    if isinstance(reply, Failure):
        raise TransientModelError(f"the first call to the {role} model failed: {reply.reason}", role=role)
