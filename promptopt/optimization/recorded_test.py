"""The test of a run, from what its folder recorded: its items, and a task that sends them again.

Knows nothing of how rewards are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptopt.errors import InputError
from promptopt.evaluation.verdicts import verdict
from promptopt.models.options import RequestOptions
from promptopt.prompt import Example, Prompts
from promptopt.replies import Response
from promptopt.results.outcomes import FILE, read_outcomes
from promptopt.results.result import Result
from promptopt.results.saved import folder_of
from promptopt.rewards import Contains, Exact, Label, Number, TokenF1
from promptopt.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptopt.results.outcomes import Outcome
    from promptopt.rewards import Reward

SPLITS = ("test", "validation", "train")

_ROUNDING = 1e-9
_INFERRED: tuple[Reward, ...] = (Exact(), Contains(), Number(), TokenF1())


def read_test(run: Path | str) -> tuple[Result, tuple[Outcome, ...]]:
    """Return the result of a run and its recorded test, from the run's folder or a file in it.

    Raises:
        InputError: they cannot be read, or there are no test replies.
    """
    result, recorded = Result.load(run), read_outcomes(folder_of(run) / FILE)
    if not recorded:
        raise InputError(f"{run} holds no {FILE} with test replies: give the folder of a run whose task has test items")
    return result, recorded


def matched(task: Task, recorded: Sequence[Outcome], run: str) -> dict[Example, Outcome]:
    """Return the task's examples with what the run recorded for them; items whose recorded reply failed are left out."""
    known = {example.id: example for name in reversed(SPLITS) for example in getattr(task, name)}
    out = {}
    for outcome in recorded:
        example = known.get(outcome.id)
        same = example is not None and dict(example.inputs) == dict(outcome.inputs) and example.target == outcome.target
        if example is not None and same and outcome.chosen.reward is not None:
            out[example] = outcome
    if not out:
        raise InputError(f"none of the test items of {run} is in the task {task.name!r}: give the run's own task")
    return out


def rebuilt_task(result: Result, recorded: Sequence[Outcome], run: str) -> Task:
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
    examples = [Example(dict(o.inputs), o.target, o.id, o.group) for o in recorded]
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
        prompt_role=result.layout.prompt_role if result.layout else "auto",
        turns=result.layout.turns if result.layout else (),
        name=result.task,
        stop=tuple(request.get("stop", ())),
        request=RequestOptions(**request.get("options", {})),
        notes=(f"the reward is assumed to be {type(reward).__name__}, which reproduces all recorded rewards",),
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
