"""The final test of a run: seed prompt and chosen prompt on the test examples; and the result of the run."""

from __future__ import annotations

import math
import platform
from importlib.metadata import PackageNotFoundError, version
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from promptopt._version import __version__
from promptopt.errors import BudgetExhaustedError
from promptopt.evaluation.ledger import Spending
from promptopt.evaluation.objectives import signs
from promptopt.optimization.calibration import predictor_rewards
from promptopt.optimization.fronts import front_tests
from promptopt.optimization.selection import Choice, cells_measured
from promptopt.replies import TOOL, Response
from promptopt.results.outcomes import SAME, ByLabels, Comparison, PredictorTest, outcomes
from promptopt.results.result import Record, Result
from promptopt.search.writing import rejections
from promptopt.statistics import clustered_standard_error, mean_interval, paired_interval
from promptopt.statistics.arrays import nanmean
from promptopt.strategies.registry import description_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptopt.evaluation.ledger import Ledger
    from promptopt.evaluation.scorer import Scorer
    from promptopt.models.base import Price
    from promptopt.optimization.job import Job
    from promptopt.optimization.selection import Validated
    from promptopt.optimization.stages import Stages
    from promptopt.prompt import Example, Prompt
    from promptopt.results.predictor import Predictor
    from promptopt.scores import Scores
    from promptopt.search.archive import Candidate
    from promptopt.search.run import Run
    from promptopt.statistics.arrays import Floats

_FAILED_SHARE = 0.01  # above this share of failed replies a run is unfinished (design, decision 4)
_SHOWN_IDS = 5  # examples that a message names


def claim(
    run: Run, stages: Stages, choice: Choice, notes: list[str], predictor: Predictor | None = None
) -> Comparison | None:
    """Compare on as many test examples as the remaining budget covers; a kept seed prompt is tested alone.

    Args:
        run: of the search.
        stages: sets the budget of the test.
        choice: the prompt to compare with the seed prompt.
        notes: receives the reason if there is no test.
        predictor: tested on the same examples; if its prompt is neither of the two, that is a third prompt to score.

    Returns:
        The comparison, or None if there are no test data or no budget for them.
    """
    if not run.task.test:
        notes.append("no test data: nothing is claimed")
        return None
    seed, comparison = run.task.seed_prompt, None
    numbers = {candidate.number: prompt for prompt, candidate in run.archive.items()}
    front = [numbers[point.number] for point in choice.points]
    prompts = len(_tested(seed, choice.prompt, predictor, front))
    with stages.test():
        for examples in stages.test_samples(prompts, cells_measured(run, choice)):
            try:
                comparison = compare(
                    run.scorer, seed, choice.prompt, examples, predictor, front=front, objectives=run.objectives
                )
            except BudgetExhaustedError:
                break
    if comparison is None:
        notes.append("the budget ended before the test: nothing is claimed")
    return comparison


def compare(
    scorer: Scorer,
    seed: Prompt,
    chosen: Prompt,
    examples: Sequence[Example],
    predictor: Predictor | None = None,
    *,
    front: Sequence[Prompt] = (),
    objectives: Sequence[str] = (),
) -> Comparison:
    """Score the seed prompt and the chosen prompt on the same test examples, in one batch; once if they are the same.

    If the model scores labels but the task is read as text, the comparison is of the written replies, and the choice among
    labels is reported in addition. The predictor, if any, is tested on the same examples; its prompt may be another one. So are the
    prompts of a front, by all objectives.

    Raises:
        BudgetExhaustedError: the budget does not cover the test.
    """
    prompts = _tested(seed, chosen, predictor, front)
    written = scorer.tests_text
    scores = scorer.score(prompts, examples, written=written)
    pair = scores.rows([0, prompts.index(chosen)])
    first, second = pair.per_example
    groups, both = scores.groups, ~np.isnan(second - first)
    compared = None if groups is None else list(compress(groups, both))
    return Comparison(
        seed=mean_interval(first, clusters=groups),
        chosen=mean_interval(second, clusters=groups),
        difference=paired_interval(second, first, clusters=groups) if chosen != seed else SAME,
        examples=int(both.sum()),
        spread=_spread((second - first)[both], compared),
        groups=None if compared is None else len(set(compared)),
        costs=None if scorer.task.models else _costs(pair, scorer.model.price),
        tokens=_tokens(pair),
        read="text" if written else "labels" if scorer.chooses else "",
        by_labels=_by_labels(scorer.score(_tested(seed, chosen, None), examples), first, second) if written else None,
        predictor=None if predictor is None else _predictor_test(predictor, scores, pair),
        front=front_tests(scores, front, objectives, scorer.model.price) if front else (),
        outcomes=outcomes(pair),
    )


def _spread(differences: Floats, groups: Sequence[str] | None) -> float | None:
    """Return the standard deviation of differences, or, in groups, that of as many independent ones with the same standard error."""
    if len(set(range(differences.size) if groups is None else groups)) <= 1:
        return None
    if groups is None:
        return float(differences.std(ddof=1))
    return clustered_standard_error(differences, groups) * math.sqrt(differences.size)


def _tested(seed: Prompt, chosen: Prompt, predictor: Predictor | None, front: Sequence[Prompt] = ()) -> list[Prompt]:
    """Return the distinct prompts to test: the seed prompt, the chosen prompt, that of the predictor, and those of a front."""
    return list(dict.fromkeys([seed, chosen, *([predictor.prompt] if predictor else []), *front]))


def _predictor_test(predictor: Predictor, scores: Scores, pair: Scores) -> PredictorTest:
    """Return the test of the predictor, given the scores of all prompts and those of the seed and the chosen prompt."""
    replies = [column[0] for column in scores.replies[scores.prompts.index(predictor.prompt)]]
    rewards = predictor_rewards(predictor, scores.examples, replies)
    first, second = pair.per_example
    return PredictorTest(
        reward=mean_interval(rewards, clusters=scores.groups),
        over_seed=paired_interval(rewards, first, clusters=scores.groups),
        over_prompt=paired_interval(rewards, second, clusters=scores.groups),
    )


def _by_labels(scores: Scores, first: Floats, second: Floats) -> ByLabels:
    """Return the rewards of choosing among the labels, compared with the rewards of the texts."""
    seed, chosen = scores.per_example[0], scores.per_example[-1]
    return ByLabels(
        seed=mean_interval(seed, clusters=scores.groups),
        chosen=mean_interval(chosen, clusters=scores.groups),
        seed_apart=paired_interval(seed, first, clusters=scores.groups),
        chosen_apart=paired_interval(chosen, second, clusters=scores.groups),
    )


def _costs(scores: Scores, price: Price | None) -> tuple[float, float] | None:
    """Return each prompt's mean price of a thousand replies, in dollars; None if unknown."""
    responses = _responses(scores)
    if price is None or not all(responses):
        return None
    means = [1000 * sum(price.of(reply.usage) for reply in row) / len(row) for row in responses]
    return means[0], means[-1]


def _tokens(scores: Scores) -> tuple[float, float] | None:
    """Return each prompt's mean tokens of a reply and its prompt; None if a prompt's replies report none."""
    means = [sum(reply.usage.total for reply in row) / max(len(row), 1) for row in _responses(scores)]
    return (means[0], means[-1]) if all(means) else None


def _responses(scores: Scores) -> list[list[Response]]:
    return [[reply for cell in row for reply in cell if isinstance(reply, Response)] for row in scores.replies]


def result_of(
    job: Job,
    run: Run,
    *,
    choice: Choice,
    predictor: Predictor | None,
    test: Comparison | None,
    unfinished: str,
    notes: Sequence[str],
) -> Result:
    """Return the result of a run; anyone who saves it sets `seconds`, `run_dir` and `digest`."""
    scorer, ledger = run.scorer, run.ledger
    unfinished = unfinished or too_many_failures(run)
    return Result(
        task=job.task.name,
        prompt=choice.prompt,
        seed_prompt=job.task.seed_prompt,
        test=test,
        predictor=predictor,
        history=tuple(record(run, c, choice.validated.get(c.prompt)) for c in run.archive.values()),
        seed_number=_seed_number(run),
        steps=tuple(run.steps),
        lengths=(run.length(job.task.seed_prompt), run.length(choice.prompt)),
        used=ledger.logical,
        failed=ledger.failed,
        unfinished=unfinished,
        notes=(
            *notes,
            *ledger.notes(),
            *_notes_on_failures(run, unfinished),
            *_notes_on_tools(job, ledger),
            *_notes_on_replies(run),
        ),
        objectives=job.objectives.names if job.objectives else (),
        prefer=job.objectives.prefer if job.objectives else "",
        points=choice.points,
        warnings=(scorer.silence.headline,) if scorer.silence.headline else (),
        strategy=description_of(job.strategy),
        prices=job.prices,
        models={role: dict(model.fingerprint) for role, model in job.roles.items()},
        seed=job.seed,
        budget=str(job.budget),
        request=job.request,
        layout=job.task.layout,
        versions=_versions(),
        paid=ledger.paid,
        seconds=math.nan,
    )


def _notes_on_tools(job: Job, ledger: Ledger) -> list[str]:
    """Return a note if tokens are limited, but the program, which asks models by itself, reported none."""
    used = ledger.logical.get(TOOL, Spending())
    metered = job.budget.tokens is not None or (job.budget.dollars is not None and any(job.prices.get(TOOL) or ()))
    if not metered or not used.calls or used.tokens or "task" in ledger.logical:
        return []
    note = (
        f"the program reported no tokens for its {used.calls:,} calls, so the budget of {job.budget} did not limit them: "
        "return Response(text, usage=Usage(...)) from it, or give a budget in calls"
    )
    return [note]


def _notes_on_failures(run: Run, unfinished: str) -> list[str]:
    """Return a note with the first reason for failed replies, if the run does not give it as the reason why it is unfinished."""
    first = run.scorer.first_failure
    if not run.ledger.failed or not first or first in unfinished:
        return []
    return [f"{run.ledger.failed} replies failed; the first was {first}"]


def _notes_on_replies(run: Run) -> list[str]:
    scorer = run.scorer
    writer = run.ledger.logical.get("writer", Spending())
    notes = [
        *filter(None, [rejections(run.proposed, writer)]),
        *scorer.silence.notes(run.task.max_tokens),
        *scorer.tally.notes,
    ]
    repaired = len(run.caller.repaired)
    if repaired:
        notes.append(f"{repaired} replies contained half of a surrogate pair (an emoji cut in two), replaced by U+FFFD")
    return notes


def too_many_failures(run: Run) -> str:
    """Return why failed replies leave the run unfinished, or "" if they do not."""
    ledger = run.ledger
    failed, calls = ledger.failed, ledger.total(ledger.logical).calls
    if failed > _FAILED_SHARE * calls:
        share = f"{failed} of {calls} replies failed, more than {_FAILED_SHARE:.0%}"
        first = run.scorer.first_failure  # none where only the writer's replies failed
        refused = sorted(run.scorer.refused)
        advice = f"; leave out items that the endpoint refuses: {', '.join(refused[:_SHOWN_IDS])}" if refused else ""
        return f"{share}{advice}; run again to retry them{first and f'. The first was {first}'}"
    # A judge's reply may contain no score.
    empty = sum(candidate.failed for candidate in run.archive.values())
    cells = empty + sum(candidate.cells for candidate in run.archive.values())
    if empty > _FAILED_SHARE * cells:
        return f"{empty} of {cells} replies have no score, more than {_FAILED_SHARE:.0%}; look at what the judge says"
    return ""


def record(run: Run, candidate: Candidate, seen: Validated | None = None) -> Record:
    """Return a candidate's record for the result."""
    return Record(
        number=candidate.number,
        prompt=candidate.prompt,
        length=run.length(candidate.prompt),
        parent=candidate.parent,
        step=candidate.step,
        fitness=_number(candidate.fitness),
        reward=_number(candidate.reward),
        cells=candidate.cells,
        failed=candidate.failed,
        validation=_number(seen.mean) if seen else None,
        validated=seen.examples if seen else 0,
        calls=candidate.calls,
        dollars=candidate.dollars,
        objectives=_further(run, candidate.prompt),
    )


def _further(run: Run, prompt: Prompt) -> dict[str, float | None]:
    """Return the means of the objectives beside the reward over all examples scored so far."""
    names = run.archive.objectives
    if not names:
        return {}
    values = nanmean(run.archive.objective_values([prompt])[1:, 0], axis=1) * signs(names)
    return {name: _number(value) for name, value in zip(names, values.tolist(), strict=True)}


def _seed_number(run: Run) -> int | None:
    candidate = run.archive.get(run.task.seed_prompt)
    return candidate.number if candidate else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _versions() -> dict[str, str]:
    out = {"promptopt": __version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "transformers"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:  # torch and transformers are optional
            continue
    return out
