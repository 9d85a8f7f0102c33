"""`compare_prompts`, `check_drift` and `promptopt gate`: decisions, their errors by simulation, and what they print."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from shell import promptopt
from toys import Toy, program_toys  # type: ignore[attr-defined]

from promptopt import (
    Example,
    FakeModel,
    FunctionModel,
    InputError,
    LabelMargin,
    Memo,
    Prompt,
    Response,
    Task,
    TransientModelError,
    check_drift,
    compare_prompts,
    optimize,
)
from promptopt.evaluation.ledger import Ledger
from promptopt.models.base import Price
from promptopt.optimization.gate import Aim, Pair, SequentialTest, fewest_items, look_sizes
from promptopt.randomness import named_generator
from promptopt.replies import Arrival, Failure
from promptopt.results.gate import GateResult, items_wanted
from promptopt.results.saved_prompt import read_prompt
from promptopt.statistics import Interval, late_alpha_spending, paired_interval, paired_score_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from promptopt.models.base import Request
