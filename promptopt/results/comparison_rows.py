"""The table that compares the seed prompt with the chosen one, in groups of rows (name, seed, chosen)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptopt.results.headline import ends

if TYPE_CHECKING:
    from promptopt.results.outcomes import Comparison, PredictorTest
    from promptopt.results.result import Result

Rows = list[tuple[str, str, str]]


def search_rows(result: Result) -> Rows:
    """Return the rewards that the search and the choice saw."""
    seed, chosen = result.seed_record, result.chosen_record
    out: Rows = [
        ("training reward", _shown(seed.reward if seed else None), _shown(chosen.reward if chosen else None)),
        ("validation reward", _shown(seed.validation if seed else None), _shown(chosen.validation if chosen else None)),
    ]
    if result.predictor is not None:
        out.append(("validation, with bias", "", _shown(result.predictor.validation)))
    return [row for row in out if any(row[1:])]


def test_rows(result: Result) -> Rows:
    """Return the test rewards and their paired difference; [] without a test."""
    if result.test is None:
        return []
    out: Rows = [
        ("test reward", f"{result.test.seed.estimate:.3f}", f"{result.test.chosen.estimate:.3f}"),
        ("95 % interval", ends(result.test.seed), ends(result.test.chosen)),
    ]
    return out + ([("difference, paired", "", "0: the same prompt")] if result.kept else _difference(result.test))


def answer_rows(result: Result) -> Rows:
    """Return other readings of the test: by labels, and with the label bias."""
    if result.test is None:
        return []
    out: Rows = []
    labelled = result.test.by_labels
    if labelled is not None:
        apart = (labelled.seed_apart, labelled.chosen_apart)
        out = [
            ("chosen among the labels", f"{labelled.seed.estimate:.3f}", f"{labelled.chosen.estimate:.3f}"),
            ("difference from text", f"{apart[0].estimate:+.3f}", f"{apart[1].estimate:+.3f}"),
        ]
    return out + (_predictor_rows(result.test.predictor) if result.test.predictor else [])


def cost_rows(result: Result) -> Rows:
    """Return what a prompt takes: its tokens, and the price of replies where it is known."""
    out = [("tokens in the prompt", str(result.lengths[0]), str(result.lengths[1]))]
    if result.test is not None and result.test.costs is not None and any(result.test.costs):
        out.append(("$ per 1,000 replies", f"{result.test.costs[0]:.4f}", f"{result.test.costs[1]:.4f}"))
    return out


def _difference(test: Comparison) -> Rows:
    return [
        ("difference, paired", "", f"{test.difference.estimate:+.3f}"),
        ("its 95 % interval", "", ends(test.difference, "+")),
    ]


def _predictor_rows(predictor: PredictorTest) -> Rows:
    return [
        ("with label bias", "", f"{predictor.reward.estimate:.3f}"),
        ("95 % interval", "", ends(predictor.reward)),
        ("gain over seed prompt", "", f"{predictor.over_seed.estimate:+.3f}"),
        ("its 95 % interval", "", ends(predictor.over_seed, "+")),
        ("gain over prompt alone", "", f"{predictor.over_prompt.estimate:+.3f}"),
        ("its 95 % interval", "", ends(predictor.over_prompt, "+")),
    ]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
