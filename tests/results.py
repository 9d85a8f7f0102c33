"""A result made by hand, and the data of a report, for the tests of what is done with results."""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from dataclasses import replace
from typing import Any

from promptopt import Demonstrations, Example, Price, Prompt, Result
from promptopt.evaluation.ledger import Spending
from promptopt.results.outcomes import Answer, Comparison, Outcome
from promptopt.results.result import Record
from promptopt.statistics import Interval

SEED = Prompt("Answer {text}.")
SHOWN = Demonstrations((Example({"text": "five"}, "5", "a"), Example({"text": "zwölf"}, "12", "b")), nearest=1)
CHOSEN = Prompt("Think.\n\nThen answer {text} \N{THINKING FACE}.", SHOWN)
BETTER = Comparison(
    seed=Interval(0.5, 0.4, 0.6),
    chosen=Interval(0.75, 0.65, 0.85),
    difference=Interval(0.25, 0.125, 0.375),
    examples=100,
    spread=1.04,
    costs=(0.03, 0.06),
)
UNSURE = replace(BETTER, difference=Interval(0.25, -0.125, 0.5))
BOUNDLESS = replace(
    BETTER, chosen=Interval(math.nan, -math.inf, math.inf), difference=Interval(0.25, -math.inf, math.inf)
)

HISTORY = (
    Record(
        number=0,
        prompt=SEED,
        length=5,
        parent=None,
        step=0,
        fitness=0.5,
        reward=0.25,
        cells=12,
        failed=0,
        calls=12,
        dollars=0.1,
    ),
    Record(
        number=1,
        prompt=CHOSEN,
        length=12,
        parent=0,
        step=1,
        fitness=0.75,
        reward=0.7,
        cells=11,
        failed=1,
        validation=0.8,
        validated=60,
        calls=36,
        dollars=0.25,
    ),
    Record(
        number=2,
        prompt=Prompt(""),
        length=0,
        parent=1,
        step=1,
        fitness=None,
        reward=None,
        cells=0,
        failed=12,
        calls=36,
        dollars=0.25,
    ),
)


def a_result(**changes: Any) -> Result:
    found = Result(
        task="sums",
        prompt=CHOSEN,
        seed_prompt=SEED,
        test=BETTER,
        history=HISTORY,
        steps=({"best": 0.5, "length": 3}, {"best": None, "what": "x"}),
        lengths=(5, 12),
        used={"task": Spending(120, 1000, 100, 500, 0.25), "writer": Spending(3, 30, 0, 60, 0.0)},
        failed=0,
        unfinished="",
        notes=("a note",),
        strategy={"name": "RandomSearch", "settings": {"prompts": 64, "batch": None}},
        models={"task": {"provider": "fake", "model": "f"}},
        seed=7,
        budget="500 calls",
        versions={"promptopt": "0.1", "python": "3.11"},
        paid={"task": Spending(20, 100, 0, 50, 0.05)},
        prices={"task": Price(0.4, 1.6, 0.1), "writer": None},
        seconds=1.5,
        run_dir="runs/x",
    )
    return replace(found, **changes)


def an_outcome(number: int, seed: float | None, chosen: float | None, /, **changes: Any) -> Outcome:
    """Return the outcome of one item; a reward of None is a reply that never came."""

    def answer(reward: float | None) -> Answer:
        if reward is None:
            return Answer(text="", reward=None, reason="timed out", finish="failed")
        return Answer(text="5" if reward else "seven", reward=reward, reason="" if reward else "said 7, wanted 5")

    made = Outcome(
        id=f"t{number}", inputs={"text": f"item {number}"}, target="5", seed=answer(seed), chosen=answer(chosen)
    )
    return replace(made, **changes)


OUTCOMES = (an_outcome(0, 0.0, 1.0), an_outcome(1, 1.0, 0.0), an_outcome(2, 1.0, 1.0), an_outcome(3, None, 1.0))


def data_of(text: str) -> Any:
    """The data in a report's page."""
    (packed,) = re.findall(r'<script type="application/octet-stream" id="data">([A-Za-z0-9+/=]*)</script>', text)
    return json.loads(zlib.decompress(base64.b64decode(packed)))
