"""The outcome of a run in a few sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from results import HISTORY, SEED, UNSURE, a_result

from promptopt.statistics import Interval

KEPT = "No improvement found: your prompt was kept. Its test reward is 0.500, 95 % interval 0.400 to 0.600."


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        (
            {},
            "Better than the seed prompt: 0.500 -> 0.750 (+0.250, 95 % interval +0.125 to +0.375, 100 test items).",
        ),
        (
            {"test": UNSURE},
            (
                "No improvement shown on test data (+0.250, 95 % interval -0.125 to +0.500, 100 test items). "
                "To confirm a difference this small you would need about 36 more test items."
            ),
        ),
        (
            {"test": replace(UNSURE, spread=None)},
            "No improvement shown on test data (+0.250, 95 % interval -0.125 to +0.500, 100 test items).",
        ),
        (
            {"test": replace(UNSURE, difference=Interval(-0.05, -0.2, 0.1))},
            (
                "No improvement shown on test data (-0.050, 95 % interval -0.200 to +0.100, 100 test items). "
                "The chosen prompt scored no higher, so more test items would not help."
            ),
        ),
        ({"prompt": SEED}, KEPT),
        ({"prompt": SEED, "test": None}, "No improvement found: your prompt was kept."),
        (
            {"prompt": SEED, "test": None, "history": (HISTORY[0], replace(HISTORY[1], validation=None, validated=0))},
            (
                "No improvement found: no candidate scored higher on the training items, and none was compared on "
                "validation or test items. Your prompt was kept."
            ),
        ),
        *(
            (
                {"prompt": SEED, "test": None, "history": history},
                "Nothing was compared: the search scored no other prompt, and your prompt was kept.",
            )
            for history in (HISTORY[:1], (HISTORY[0], HISTORY[2]), ())
        ),
        ({"test": None}, "A candidate was chosen, but not tested: nothing is claimed."),
        (
            {"test": None, "unfinished": "stopped by the user"},
            "Unfinished (stopped by the user). A candidate was chosen, but not tested: nothing is claimed.",
        ),
        (
            {"prompt": SEED, "failed": 3},
            f"{KEPT} Failed replies: 3.",
        ),
        (
            {"prompt": SEED, "warnings": ("3 of 9 replies hold no text.",), "unfinished": "stopped by the user"},
            f"Unfinished (stopped by the user). {KEPT} 3 of 9 replies hold no text.",
        ),
    ],
)
def test_the_headline_claims_what_the_interval_shows(changes: dict[str, Any], headline: str) -> None:
    assert a_result(**changes).headline == headline
