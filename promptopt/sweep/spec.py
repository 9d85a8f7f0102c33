"""Sweep files: read and validate the TOML description of a sweep."""

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
from promptopt.models.options import NO_OPTIONS, RequestOptions, read_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails


def _as_table(value: object) -> object:
    """Expand a model name to a table."""
    return {"name": value} if isinstance(value, str) else value


def _budget(value: object) -> object:
    """Parse a budget such as '500 calls'."""
    if not isinstance(value, str):
        raise ValueError("must be text, such as '500 calls' or '2 dollars'")  # noqa: TRY004  pydantic expects ValueError
    return Budget.parse(value)


def _options(value: object) -> object:
    """Parse a table of request options."""
    try:
        return read_options(value, "options", Path.cwd()) if isinstance(value, dict) else value
    except InputError as error:
        raise ValueError(str(error)) from None


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


_Count = Annotated[int, Field(ge=0)]
_Budget = Annotated[Budget, BeforeValidator(_budget)]
_Dollars = Annotated[float, Field(strict=False, ge=0, allow_inf_nan=False)]


class ModelSpec(_Section):
    """A model, with arguments of `load_model`.

    Args:
        name: KIND:NAME.
        base_url: URL of a hosted model's endpoint, if not the provider's.
        price: dollars per million tokens: input, output, and optionally cached and written input.
        concurrency: maximum concurrent calls of one run.
        options: options of every request, such as `{ reasoning_effort = "low" }`.
    """

    name: str
    base_url: str | None = None
    price: Annotated[tuple[_Dollars, ...], Field(strict=False, min_length=2, max_length=4)] | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None
    options: Annotated[RequestOptions, BeforeValidator(_options)] = NO_OPTIONS

    @property
    def label(self) -> str:
        """Label in tables."""
        address = self.name if self.base_url is None else f"{self.name} at {self.base_url}"
        return " ".join([address, *(f"{name}={value}" for name, value in self.options.to_json().items())])

    @property
    def cost(self) -> Price | None:
        """The price, or None."""
        return None if self.price is None else Price(*self.price)


class TaskModelSpec(ModelSpec):
    """A task model and its writer, by default the same model."""

    writer: Annotated[ModelSpec, BeforeValidator(_as_table)] | None = None

    @property
    def label(self) -> str:
        """Label in tables."""
        return super().label if self.writer is None else f"{super().label} (writer: {self.writer.label})"


class StrategySpec(_Section):
    """A strategy with changed settings."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """Label in tables."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.settings.items())])


class SweepSpec(_Section):
    """The content of a sweep file.

    Args:
        tasks: task files.
        model: task models.
        strategy: strategies with their settings.
        seeds: random seeds of the runs.
        budget: budget of each run, or of all strategies of a portfolio together.
        total: upper limit on the sum of all budgets.
        portfolio: whether the strategies compete under one shared budget.
        cpus: processor cores per run.
        gpus: GPUs per run.
        callbacks: functions to call with each event of each run, as `module:function`.
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
    callbacks: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _reject_duplicates(self) -> SweepSpec:
        labels: dict[str, list[Any]] = {
            "tasks": list(self.tasks),
            "model": [model.label for model in self.model],
            "strategy": [strategy.label for strategy in self.strategy],
            "seeds": list(self.seeds),
        }
        for key, values in labels.items():
            duplicate = next((value for value in values if values.count(value) > 1), None)
            if duplicate is not None:
                raise ValueError(f"{key} contains {duplicate!r} twice: remove one")
        return self

    @model_validator(mode="after")
    def _require_several_strategies(self) -> SweepSpec:
        if self.portfolio and len(self.strategy) < 2:  # noqa: PLR2004  at least two compete
            raise ValueError("portfolio = true needs at least two strategies: add [[strategy]] tables")
        return self

    @model_validator(mode="after")
    def _check_total(self) -> SweepSpec:
        """Reject budgets whose sum exceeds the total."""
        limits = {} if self.total is None else {k: v for k, v in asdict(self.total).items() if v is not None}
        runs = len(self.tasks) * len(self.model) * len(self.seeds) * (1 if self.portfolio else len(self.strategy))
        for unit, limit in limits.items():
            each: float | None = getattr(self.budget, unit)
            if each is None:
                raise ValueError(
                    f"total = {str(self.total)!r}, but budget = {str(self.budget)!r} does not limit the {unit} of a run: "
                    f"set budget = '{limit / runs:.6g} {unit}'"
                )
            if each * runs > limit:
                kind = "portfolios" if self.portfolio else "runs"
                raise ValueError(
                    f"{runs} {kind} of {each:,.10g} {unit} add up to {each * runs:,.10g}, more than total = "
                    f"{str(self.total)!r}: set budget = '{limit / runs:.6g} {unit}' or less, or use fewer {kind}"
                )
        return self


_TABLES: dict[str, type[_Section]] = {"model": TaskModelSpec, "writer": ModelSpec, "strategy": StrategySpec}
_ERROR_TEXTS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "int_type": "must be a whole number",
    "model_type": "must be a table",
    "string_type": "must be text",
    "too_short": "has too few values",
    "too_long": "has too many values",
    "tuple_type": "must be a list",
}
_API_KEY_NAMES = ("api_key", "key", "token", "secret", "password")


def load_sweep(path: str | Path) -> SweepSpec:
    """Read a sweep file.

    Raises:
        InputError: the message names the file, the key, the value and the fix.
    """
    try:
        values = tomllib.loads(read_text(Path(path)))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    return parse_sweep(values, str(path))


def parse_sweep(values: Mapping[str, Any], where: str) -> SweepSpec:
    """Validate the values of a sweep file.

    Args:
        values: content of a sweep file.
        where: name of the source in messages.

    Raises:
        InputError: the message has one line per error.
    """
    try:
        return SweepSpec.model_validate(values)
    except ValidationError as error:
        details = error.errors()
        innermost = [d for d in details if not any(_contains(d["loc"], other["loc"]) for other in details)]
        raise InputError("\n".join(f"{where}: {_message(detail)}" for detail in innermost)) from None


def _contains(outer: tuple[int | str, ...], inner: tuple[int | str, ...]) -> bool:
    """Whether one location contains another, so that the error at the inner one is more specific."""
    return len(outer) < len(inner) and inner[: len(outer)] == outer


def _message(error: ErrorDetails) -> str:
    """Return the message for one of pydantic's errors: key, value, and what is allowed."""
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return _unknown_key(path)
    if error["type"] == "missing":
        table = f"[[{key}]]" if key in _TABLES else f"the key {key!r}"
        return f"{table} is missing"
    if error["type"] == "value_error":
        reason = error["msg"].removeprefix("Value error, ")
        return f"{key} = {reprlib.repr(error['input'])}: {reason}" if path else reason
    reason = _ERROR_TEXTS.get(error["type"], error["msg"].replace("Input should", "must"))
    return f"{key} = {reprlib.repr(error['input'])}: {reason}"


def _unknown_key(path: list[str]) -> str:
    *section, key = path
    if key in _API_KEY_NAMES:
        return (
            f"{'.'.join(path)}: remove API keys from the sweep file and set OPENAI_API_KEY or ANTHROPIC_API_KEY instead"
        )
    table = next((part for part in reversed(section) if part in _TABLES), None)
    known = (_TABLES[table] if table else SweepSpec).model_fields
    location = f" in [[{table}]]" if table else ""
    return f"unknown key {key!r}{location}{nearest(key, known)}; known keys: {', '.join(known)}"
