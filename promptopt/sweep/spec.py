"""Sweep files: what is crossed with what, written as TOML and checked key by key. Knows nothing of running it."""

from __future__ import annotations

import reprlib
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from promptopt.data.rows import read_text
from promptopt.errors import InputError, nearest
from promptopt.evaluation.ledger import Budget
from promptopt.models.base import Price

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails


def _named(value: object) -> object:
    """Turn a model's name into its table."""
    return {"name": value} if isinstance(value, str) else value


def _budget(value: object) -> object:
    """Read a budget in words."""
    if not isinstance(value, str):
        raise ValueError("must be text, such as '500 calls' or '2 dollars'")  # noqa: TRY004  pydantic wants these
    return Budget.parse(value)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


_Count = Annotated[int, Field(ge=0)]
_Budget = Annotated[Budget, BeforeValidator(_budget)]
_Dollars = Annotated[float, Field(strict=False, ge=0, allow_inf_nan=False)]


class ModelSpec(_Section):
    """A model, as `load_model` takes it.

    Args:
        name: KIND:NAME.
        base_url: endpoint of a hosted model, if not the provider's.
        price: dollars per million tokens: input, output, and perhaps cached and written input.
        concurrency: calls in flight at once, of one run.
    """

    name: str
    base_url: str | None = None
    price: Annotated[tuple[_Dollars, ...], Field(strict=False, min_length=2, max_length=4)] | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return self.name if self.base_url is None else f"{self.name} at {self.base_url}"

    @property
    def cost(self) -> Price | None:
        """The price, where one is given."""
        return None if self.price is None else Price(*self.price)


class TaskModelSpec(ModelSpec):
    """A model that prompts are searched for, and the one that writes them, by default itself."""

    writer: Annotated[ModelSpec, BeforeValidator(_named)] | None = None

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return super().label if self.writer is None else f"{super().label}, written for by {self.writer.label}"


class StrategySpec(_Section):
    """A strategy with changes to its settings."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.settings.items())])


class SweepSpec(_Section):
    """A sweep as its file says it.

    Args:
        tasks: task files.
        model: models that prompts are searched for.
        strategy: strategies with their settings.
        seeds: of the runs.
        budget: of each run; of a portfolio, of all its strategies together.
        total: the most that all budgets together may come to.
        portfolio: whether the strategies share one budget, and only the better go on.
        cpus: processor cores that a run takes.
        gpus: GPUs that a run takes.
    """

    tasks: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    model: Annotated[tuple[TaskModelSpec, ...], Field(strict=False, min_length=1)]
    strategy: Annotated[tuple[StrategySpec, ...], Field(strict=False, min_length=1)]
    budget: _Budget
    seeds: Annotated[tuple[_Count, ...], Field(strict=False, min_length=1)] = (0,)
    total: _Budget | None = None
    portfolio: bool = False
    cpus: Annotated[float, Field(strict=False, gt=0)] = 1
    gpus: Annotated[float, Field(strict=False, ge=0)] = 0

    @model_validator(mode="after")
    def _each_once(self) -> SweepSpec:
        rows: dict[str, list[Any]] = {
            "tasks": list(self.tasks),
            "model": [model.label for model in self.model],
            "strategy": [strategy.label for strategy in self.strategy],
            "seeds": list(self.seeds),
        }
        for key, values in rows.items():
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"{key} holds {twice!r} twice: give each once")
        return self

    @model_validator(mode="after")
    def _rivals(self) -> SweepSpec:
        if self.portfolio and len(self.strategy) < 2:  # noqa: PLR2004  two to choose between
            raise ValueError(
                "portfolio = true with one strategy leaves nothing to choose: give two or more [[strategy]]"
            )
        return self

    @model_validator(mode="after")
    def _within_total(self) -> SweepSpec:
        """Refuse budgets that could together come above the total."""
        limits = {} if self.total is None else {k: v for k, v in asdict(self.total).items() if v is not None}
        runs = len(self.tasks) * len(self.model) * len(self.seeds) * (1 if self.portfolio else len(self.strategy))
        for unit, most in limits.items():
            each: float | None = getattr(self.budget, unit)
            if each is None:
                raise ValueError(
                    f"total = {str(self.total)!r}, but budget = {str(self.budget)!r} does not say how many {unit} a run "
                    f"may use: give budget = '{most / runs:.6g} {unit}'"
                )
            if each * runs > most:
                what = "portfolios" if self.portfolio else "runs"
                raise ValueError(
                    f"{runs} {what} of {each:,.10g} {unit} come to {each * runs:,.10g}, more than total = "
                    f"{str(self.total)!r}: give budget = '{most / runs:.6g} {unit}' or less, or fewer {what}"
                )
        return self


_TABLES: dict[str, type[_Section]] = {"model": TaskModelSpec, "writer": ModelSpec, "strategy": StrategySpec}
_PLAIN_WORDS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "int_type": "must be a whole number",
    "model_type": "must be a table",
    "string_type": "must be text",
    "too_short": "has too few values",
    "too_long": "has too many values",
    "tuple_type": "must be a list",
}
_KEYS = ("api_key", "key", "token", "secret", "password")


def load_sweep(path: str | Path) -> SweepSpec:
    """Read a sweep file.

    Raises:
        InputError: names the file, the key, the value found, and the mend.
    """
    try:
        values = tomllib.loads(read_text(Path(path)))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no valid TOML: {error}") from error
    return parse_sweep(values, str(path))


def parse_sweep(values: Mapping[str, Any], where: str) -> SweepSpec:
    """Check the values of a sweep.

    Args:
        values: as a sweep file holds them.
        where: what to call their source in messages.

    Raises:
        InputError: says everything that is wrong, a line each.
    """
    try:
        return SweepSpec.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        inner = [item for item in found if not any(_holds(item["loc"], other["loc"]) for other in found)]
        raise InputError("\n".join(f"{where}: {_complaint(item)}" for item in inner)) from None


def _holds(outer: tuple[int | str, ...], inner: tuple[int | str, ...]) -> bool:
    """Whether a complaint is about what holds the culprit of another one, which says it better."""
    return len(outer) < len(inner) and inner[: len(outer)] == outer


def _complaint(error: ErrorDetails) -> str:
    """Say one of pydantic's errors in our words: key, value found, what is allowed."""
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return _unknown_key(path)
    if error["type"] == "missing":
        table = f"[[{key}]]" if key in _TABLES else f"the key {key!r}"
        return f"{table} is missing"
    if error["type"] == "value_error":
        said = error["msg"].removeprefix("Value error, ")
        return f"{key} = {reprlib.repr(error['input'])}: {said}" if path else said
    said = _PLAIN_WORDS.get(error["type"], error["msg"].replace("Input should", "must"))
    return f"{key} = {reprlib.repr(error['input'])}: {said}"


def _unknown_key(path: list[str]) -> str:
    *section, key = path
    if key in _KEYS:
        return f"{'.'.join(path)}: no keys stand in a sweep file; they come from OPENAI_API_KEY or ANTHROPIC_API_KEY"
    table = next((part for part in reversed(section) if part in _TABLES), None)
    known = (_TABLES[table] if table else SweepSpec).model_fields
    place = f" in [[{table}]]" if table else ""
    return f"unknown key {key!r}{place}{nearest(key, known)}; known keys: {', '.join(known)}"
