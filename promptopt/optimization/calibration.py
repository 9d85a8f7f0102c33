"""The predictor of a run: a prompt with a label bias, fitted, judged and chosen on replies that the run already has.

No call is made. Knows nothing of budgets or tests.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from promptopt.models.base import LabelModel, LabelReader
from promptopt.replies import Failure, Response
from promptopt.results.predictor import Predictor, model_name
from promptopt.rewards import Label
from promptopt.statistics.label_bias import fit_label_bias, held_out_biases, right_answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.optimization.selection import Choice
    from promptopt.prompt import Example, Prompt
    from promptopt.replies import Reply
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats
    from promptopt.statistics.label_bias import Targets


class _Measured(NamedTuple):
    """What the run measured of one prompt on one split.

    Args:
        logprobs: [E, L].
        targets: [E].
        rewards: [E] of the prompt alone.
    """

    logprobs: Floats
    targets: Targets
    rewards: Floats

    def right(self, bias: Floats) -> int:
        """Return the number of right answers with a bias [L] or [E, L]."""
        return int(right_answers(self.logprobs, self.targets, bias).sum())


class _OnBoth(NamedTuple):
    """What the run measured of one prompt on training and validation examples."""

    train: _Measured
    validation: _Measured

    @property
    def alone(self) -> float:
        """Mean reward of the prompt alone."""
        return float(np.concatenate([self.train.rewards, self.validation.rewards]).mean())

    def held_out(self, bias: Floats) -> float:
        """Return the share of right answers with a bias fitted on all training examples, each of them judged by one without it."""
        own = held_out_biases(self.train.logprobs, self.train.targets)
        right = self.train.right(own) + self.validation.right(bias)
        return right / (len(self.train.targets) + len(self.validation.targets))


def fit_predictor(run: Run, choice: Choice) -> Predictor | None:
    """Return the best prompt with a label bias among those raced, or None if none is ahead of the chosen prompt alone.

    The criterion is the one that chooses prompts: training and validation examples together. The bias is fitted on training
    examples, so each of these is judged by a bias fitted without it. Validation examples alone would decide against the bias too
    often, because the prompt was chosen for its rewards on them (docs/statistics.md). Ties go to the chosen prompt.

    Returns:
        None also if the task's reward is not label accuracy by log-probabilities, or if the chosen prompt was not measured on
        validation examples, as in a run without them.
    """
    if not _applies(run):
        return None
    chosen = _on_both(run, choice.prompt)
    if chosen is None:
        return None
    best, most = None, chosen.alone
    for prompt in _well_validated(choice):
        measured = _on_both(run, prompt)
        if measured is None:
            continue
        bias = fit_label_bias(measured.train.logprobs, measured.train.targets)
        share = measured.held_out(bias)
        if share > most:
            best, most = _predictor(run, prompt, measured, bias), share
    return best


def _well_validated(choice: Choice) -> list[Prompt]:
    """Return the chosen prompt, then the others with at least half as many validation examples as the most seen ones."""
    most = max((seen.examples for seen in choice.validated.values()), default=0)
    return list(
        dict.fromkeys([choice.prompt, *(p for p, seen in choice.validated.items() if 2 * seen.examples >= most)])
    )


def _predictor(run: Run, prompt: Prompt, measured: _OnBoth, bias: Floats) -> Predictor:
    task, validation = run.task, measured.validation
    return Predictor(
        prompt=prompt,
        labels=task.labels,
        bias=tuple(bias.tolist()),
        layout=task.layout,
        max_tokens=task.max_tokens,
        model=model_name(run.scorer.model),
        fitted=len(measured.train.targets),
        validation=validation.right(bias) / len(validation.targets),
    )


def predictor_rewards(predictor: Predictor, examples: Sequence[Example], replies: Sequence[Reply]) -> Floats:
    """Return the accuracy of the predictor's answers, 1 or 0, [E]; NaN where there is no reply."""
    return np.array(
        [
            math.nan if isinstance(reply, Failure) else float(predictor.answer(reply) == example.target)
            for example, reply in zip(examples, replies, strict=True)
        ]
    )


def _applies(run: Run) -> bool:
    """Whether rewards are label accuracies, and the model may give the labels' log-probabilities."""
    task = run.task
    scores_labels = isinstance(run.scorer.model, LabelModel | LabelReader) and task.logprobs
    return (
        scores_labels
        and not task.takes_several_calls
        and bool(task.labels)
        and type(task.reward) is Label
        and task.read == "labels"
    )


def _on_both(run: Run, prompt: Prompt) -> _OnBoth | None:
    """Return what the run measured of a prompt on training and validation examples; None if one of them is missing."""
    train, validation = (_measured(run, prompt, split) for split in (run.task.train, run.task.validation))
    return None if train is None or validation is None else _OnBoth(train, validation)


def _measured(run: Run, prompt: Prompt, examples: Sequence[Example]) -> _Measured | None:
    """Return what the run measured of a prompt; None if nothing, or if replies came without log-probabilities."""
    labels = run.task.labels
    labelled = [example for example in examples if example.target is not None]
    replies = [(e, r) for e, r in run.scorer.replies_so_far(prompt, labelled) if isinstance(r, Response)]
    rows = [reply.logprobs_of(labels) for _, reply in replies]
    if not rows or any(row is None for row in rows):
        return None
    targets = [labels.index(str(example.target)) for example, _ in replies]
    rewards = [Label(labels)(example, reply)[0] for example, reply in replies]
    return _Measured(np.array(rows, dtype=np.float64), np.array(targets, dtype=np.int64), np.array(rewards))
