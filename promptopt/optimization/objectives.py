"""The objectives of a run and the preference among the points of its front, read from text and checked before anything is spent.

Knows nothing of how objectives are measured or searched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from promptopt.errors import InputError, RewardError, nearest
from promptopt.evaluation.objectives import COSTS, REWARD, signs
from promptopt.evaluation.verdicts import verdict
from promptopt.replies import Response
from promptopt.rewards import LABEL_REWARDS, REWARDS_WITH_TARGET, Judge, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from promptopt.models.base import Price
    from promptopt.statistics.arrays import Floats
    from promptopt.task import Task

_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=)\s*(?:(best)\s*([+-])\s*)?(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
_SINGLE_NUMBER = (*REWARDS_WITH_TARGET, *LABEL_REWARDS, Progress, Judge)
_ADVICE = (
    "write what to have the best of, and conditions, such as 'reward, tokens <= 300' or 'tokens, reward >= best - 0.01'"
)


@dataclass(frozen=True)
class Condition:
    """A limit on one objective.

    Args:
        name: of the objective.
        limit: the value, or its distance from the best value on the front.
        relative: whether it is such a distance.
    """

    name: str
    limit: float
    relative: bool

    def __str__(self) -> str:
        comparison, sign = ("<=", "+") if self.name in COSTS else (">=", "-")
        return f"{self.name} {comparison} {f'best {sign} ' if self.relative else ''}{self.limit:g}"


@dataclass(frozen=True)
class Objectives:
    """What a run optimizes, and which point of the front it recommends.

    Args:
        names: "reward" first, then at least one other.
        best: the objective that the recommended point has the best value of.
        conditions: what it has to satisfy, in order of importance.
    """

    names: tuple[str, ...]
    best: str = REWARD
    conditions: tuple[Condition, ...] = ()

    @property
    def others(self) -> tuple[str, ...]:
        """The objectives beside the reward."""
        return self.names[1:]

    @property
    def prefer(self) -> str:
        """The preference, as text."""
        return ", ".join([self.best, *map(str, self.conditions)])

    def recommend(self, means: Floats) -> tuple[int, list[Condition]]:
        """Return the recommended point of a front, and the conditions that no point satisfies.

        Conditions apply in turn. Where none of the remaining points satisfies one, those nearest to it remain.

        Args:
            means: [P, K] in the units of the objectives.
        """
        values = means * signs(self.names)
        rest, failed = list(range(len(values))), list[Condition]()
        for condition in self.conditions:
            column = values[:, self.names.index(condition.name)]
            sign = -1.0 if condition.name in COSTS else 1.0
            limit = column.max() - condition.limit if condition.relative else sign * condition.limit
            satisfying = [i for i in rest if column[i] >= limit]
            if not satisfying:
                failed.append(condition)
                nearest_value = max(column[rest])
                satisfying = [i for i in rest if column[i] == nearest_value]
            rest = satisfying
        first = self.names.index(self.best)
        order = [first, *(k for k in range(len(self.names)) if k != first)]
        return max(rest, key=lambda i: (*values[i, order], -i)), failed


def read_objectives(objectives: Sequence[str] | str | None, prefer: str | None) -> Objectives | None:
    """Return the objectives of a run and its preference; None for the reward alone.

    Raises:
        InputError: a name or the preference cannot be used.
    """
    if objectives is None:
        if prefer is not None:
            raise InputError(
                f"prefer={prefer!r} chooses a point of a front, and there is no front: give objectives=('reward', 'tokens')"
            )
        return None
    names = [part.strip() for part in objectives.split(",")] if isinstance(objectives, str) else list(objectives)
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise InputError(
                f"{name!r} cannot be an objective: use 'reward', 'tokens', 'dollars', or the name of a number that the reward returns"
            )
        if name == "latency":
            raise InputError(
                "'latency' cannot be an objective: a run must not depend on a clock, so that it can be repeated; use 'tokens', "
                "most of a reply's time"
            )
    if len(set(names)) < len(names):
        raise InputError(f"objectives contains a name twice: {', '.join(names)}")
    if REWARD not in names or len(names) < 2:  # noqa: PLR2004  a front needs two
        raise InputError(
            f"objectives must be 'reward' and at least one other, such as ('reward', 'tokens'), not {tuple(names)}"
        )
    names.sort(key=lambda name: name != REWARD)
    return _with_preference(tuple(names), REWARD if prefer is None else prefer)


def _with_preference(names: tuple[str, ...], prefer: str) -> Objectives:
    if not isinstance(prefer, str):
        raise InputError(f"prefer must be text, not {prefer!r}: {_ADVICE}")
    best, *conditions = prefer.split(",")
    return Objectives(
        names, _known(best.strip(), names, prefer), tuple(_condition(c, names, prefer) for c in conditions)
    )


def _condition(text: str, names: Sequence[str], prefer: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise InputError(f"cannot read the condition {text.strip()!r} of prefer={prefer!r}: {_ADVICE}")
    name, comparison, best, sign, number = match.groups()
    cost = _known(name, names, prefer) in COSTS
    right, right_sign = ("<=", "+") if cost else (">=", "-")
    if comparison != right or sign not in (None, right_sign) or (best and number.startswith("-")):
        shown = f"{name} {right} {f'best {right_sign} ' if best else ''}{number.lstrip('-') if best else number}"
        raise InputError(
            f"the condition {text.strip()!r} of prefer={prefer!r} excludes the best {name}, of which "
            f"{'less' if cost else 'more'} is better: write {shown!r}"
        )
    return Condition(name, float(number), bool(best))


def _known(name: str, names: Sequence[str], prefer: str) -> str:
    if name not in names:
        raise InputError(
            f"prefer={prefer!r} names {name!r}{nearest(name, names)}, which is not one of the objectives {', '.join(names)}: {_ADVICE}"
        )
    return name


def check_objectives(objectives: Objectives, task: Task, price: Price | None) -> None:
    """Raise, before any call, if an objective cannot be measured.

    Args:
        objectives: of the run.
        task: whose reward is tried on an empty reply, if an objective is one of its numbers.
        price: of the task model.

    Raises:
        InputError: the objective is dollars, and the price is unknown, 0 or that of several models; or the reward does not
            return a number of an objective's name.
    """
    if "dollars" in objectives.others:
        _check_price(task, price)
    named = [name for name in objectives.others if name not in COSTS]
    if not named:
        return
    if isinstance(task.reward, _SINGLE_NUMBER):
        raise _not_returned(named[0], f"{type(task.reward).__name__} returns the reward alone")
    returned = _tried(task)
    missing = next((name for name in named if returned is not None and name not in returned), None)
    if missing is not None and returned is not None:
        also = f"{REWARD!r}, {', '.join(map(repr, returned))}" if returned else "the reward alone"
        raise _not_returned(missing, f"tried on an empty reply, it returned {also}{nearest(missing, list(returned))}")


def check_usage(objectives: Objectives, reply: Response) -> None:
    """Raise if the first reply came without a count of tokens, so that costs cannot be measured.

    Raises:
        InputError: costs are an objective, and there is no count.
    """
    cost = next((name for name in objectives.others if name in COSTS), None)
    if cost is not None and not reply.usage.total:
        raise InputError(
            f"the objective {cost!r} needs token counts, and the task model's first reply came without: let the model return "
            "Response(text, usage=Usage(...)), or use another objective"
        )


def _check_price(task: Task, price: Price | None) -> None:
    if task.models:
        raise InputError(
            "the objective 'dollars' needs one task model, and the program asks others too, at prices of their own: use 'tokens'"
        )
    if price is None:
        raise InputError(
            "the objective 'dollars' needs the price of the task model, which is unknown: set --price INPUT,OUTPUT in dollars "
            "per million tokens, or use 'tokens'"
        )
    if not any(price):
        raise InputError(
            "the objective 'dollars' needs a price, and replies of the task model cost nothing: use 'tokens', or set --price"
        )


def _tried(task: Task) -> Mapping[str, float] | None:
    """Return the numbers beside the reward for an empty reply; None if the reward needs an episode or a program's reply, or fails."""
    if task.takes_several_calls or task.reward is None or isinstance(task.reward, Judge):
        return None
    try:
        return verdict(task.reward, task.train[0], Response("")).named
    except (RewardError, InputError):  # reported when a real reply raises it
        return None


def _not_returned(name: str, found: str) -> InputError:
    return InputError(
        f"the objective {name!r} is not a number that the reward returns: {found}; return {{'reward': ..., {name!r}: ...}} for every reply, or use "
        "'tokens' or 'dollars'"
    )


def in_words(objectives: Objectives) -> str:
    """Return a sentence for the prompt writer on what counts beside the reward."""
    wanted = [name for name in objectives.others if name not in COSTS]
    parts = [f"a high {', '.join(wanted)}"] if wanted else []
    parts += ["short prompts and short replies"] if set(COSTS) & set(objectives.others) else []
    return f"Beside the score, these count: {' and '.join(parts)}."


def as_table(values: Floats, names: Sequence[str]) -> list[dict[str, float]]:
    """Return [P, K] values as one mapping for each point."""
    return [dict(zip(names, row, strict=True)) for row in np.asarray(values).tolist()]
