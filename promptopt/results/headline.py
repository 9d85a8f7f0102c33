"""The outcome of a run in a few sentences: what was found, what the test shows, and how answers were read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptopt.results.front import front_outcome

if TYPE_CHECKING:
    from promptopt.results.outcomes import Comparison, PredictorTest
    from promptopt.results.result import Result
    from promptopt.statistics import Interval

CHOSEN = "each answer was chosen among the labels by log-probability, not read from what the model writes"
"""Caveat for the rewards of a model that scores labels."""

CHOSEN_PROMPT = "the chosen prompt"


def headline(result: Result) -> str:
    """Return the outcome of a run, its failures and its caveats."""
    outcome = _outcome(result)
    if result.unfinished:
        outcome = f"Unfinished ({result.unfinished}). {outcome}"
    failed = [f"Failed replies: {result.failed}."] if result.failed and not result.unfinished else []
    return " ".join([outcome, *failed, *_reading(result.test), *result.warnings])


def _reading(test: Comparison | None) -> list[str]:
    """Return how test answers were read, if they are not the text that the model writes."""
    if test is None or not test.read:
        return []
    if test.by_labels is None:
        return [f"{CHOSEN[0].upper()}{CHOSEN[1:]}."]
    differences = {"seed": test.by_labels.seed_apart, "chosen": test.by_labels.chosen_apart}
    apart = {name: interval for name, interval in differences.items() if not interval.low <= 0 <= interval.high}
    if not apart:
        return []
    words = " and ".join(
        f"{interval.estimate:+.3f} ({ends(interval, '+')}) for the {name} prompt" for name, interval in apart.items()
    )
    return [f"Choosing among the labels, as the search did, scores differently from what the model writes: {words}."]


def _outcome(result: Result) -> str:
    if result.points:
        return _front_outcome(result)
    if result.predictor is None:
        return _prompt_outcome(result)
    if result.test is None or result.test.predictor is None:
        return f"{_prompt_outcome(result)} The predictor was not tested either."
    return f"Prompt alone: {_prompt_outcome(result)} {_with_bias(result, result.test, result.test.predictor)}"


def _front_outcome(result: Result) -> str:
    record = result.chosen_record
    name = "your prompt" if result.kept else f"candidate {record.number}" if record else CHOSEN_PROMPT
    tests = result.test.front if result.test else ()
    own = next((t for p, t in zip(result.points, tests, strict=False) if record and p.number == record.number), None)
    return front_outcome(name, len(result.points), result.prefer, own)


def _with_bias(result: Result, test: Comparison, predictor: PredictorTest) -> str:
    """Return the outcome of the predictor as a sentence."""
    span = f"{predictor.over_seed.estimate:+.3f}, 95 % interval {ends(predictor.over_seed, '+')}"
    if not result.kept:
        versus = predictor.over_prompt
        span += f"; against the prompt alone {versus.estimate:+.3f}, {ends(versus, '+')}"
    if predictor.over_seed.low <= 0:
        return f"{_biased(result)}: no improvement shown on test data ({span})."
    rewards = f"{test.seed.estimate:.3f} -> {predictor.reward.estimate:.3f}"
    return f"{_biased(result)}: better than the seed prompt: {rewards} ({span})."


def _biased(result: Result) -> str:
    """Return the predictor as the beginning of a sentence."""
    name = result.predictor_prompt
    return "With label bias" if name == CHOSEN_PROMPT else f"{name[0].upper()}{name[1:]} with label bias"


def _prompt_outcome(result: Result) -> str:
    if result.kept:
        return _nothing_better(result) + _seed_tested(result.test)
    if result.test is None:
        return "A candidate was chosen, but not tested: nothing is claimed."
    gain, low, high = result.test.difference
    span = f"{gain:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, {result.test.items}"
    if not result.improved:
        return f"No improvement shown on test data ({span}).{_wanted(result.test)}"
    seed, chosen = result.test.seed.estimate, result.test.chosen.estimate
    return f"Better than the seed prompt: {seed:.3f} -> {chosen:.3f} ({span})."


def _nothing_better(result: Result) -> str:
    """Return why the seed prompt was kept."""
    others = [record for record in result.history if record is not result.seed_record and record.reward is not None]
    if not others:
        return "Nothing was compared: the search scored no other prompt, and your prompt was kept."
    if any(record.validation is not None for record in others):
        return "No improvement found: your prompt was kept."
    return (
        "No improvement found: no candidate scored higher on the training items, and none was compared on "
        "validation or test items. Your prompt was kept."
    )


def _seed_tested(test: Comparison | None) -> str:
    if test is None:
        return ""
    return f" Its test reward is {test.seed.estimate:.3f}, 95 % interval {ends(test.seed)}."


def _wanted(test: Comparison) -> str:
    """Return a sentence on whether more test examples would help."""
    if test.items_wanted is not None:
        return f" To confirm a difference this small you would need about {test.items_wanted:,} more test items."
    if test.difference.estimate <= 0:
        return " The chosen prompt scored no higher, so more test items would not help."
    return ""


def ends(interval: Interval, sign: str = "") -> str:
    """Return the ends of an interval; with the sign "+", those of a difference."""
    return f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"
