"""Strategies by name, and their settings read from text. Knows nothing of running them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError, nearest
from promptopt.randomness import named_generator
from promptopt.strategies.base import Named, Strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

GROUP = "promptopt.strategies"
BUILT_IN: dict[str, Callable[[], Strategy]] = {}
"""Filled by the package, so that a strategy may look up another by its name."""
IDENTITIES: dict[type, str] = {}
"""Class -> module and name by which results, run digests and random streams know it. Filled by the package; never changed."""


def known_strategies() -> dict[str, Callable[[], Strategy]]:
    """Return built-in strategies and those that other packages registered under `promptopt.strategies`, by name."""
    return {entry.name: entry.load() for entry in entry_points(group=GROUP)} | BUILT_IN


def find_strategy(strategy: str | Strategy, settings: Mapping[str, Any] | None = None) -> Strategy:
    """Return a strategy with some settings changed.

    Args:
        strategy: a name such as `promptquine` or `promptquine.paper`, or a strategy itself.
        settings: names and values; text is read as the setting's type.

    Raises:
        InputError: no such strategy or setting, or a value that it does not take.
    """
    if isinstance(strategy, str):
        known = BUILT_IN if strategy in BUILT_IN else known_strategies()
        if strategy not in known:
            names = ["auto", *sorted(known)]  # auto chooses among the others before a strategy is made
            raise InputError(f"unknown strategy {strategy!r}{nearest(strategy, names)}; known: {', '.join(names)}")
        strategy = known[strategy]()
    if isinstance(strategy, type):
        raise InputError(f"{strategy.__name__} is a class: give a strategy, such as {strategy.__name__}()")
    if not isinstance(strategy, Strategy):
        raise InputError(f"{strategy!r} is not a strategy: it needs `writes` (bool) and `search(run)`")
    return _changed(strategy, settings) if settings else strategy


def settings_of(strategy: Strategy) -> dict[str, Any]:
    """Return the settings of a strategy as plain values; {} for one that is no dataclass."""
    if not is_dataclass(strategy):
        return {}
    return {f.name: value for f in fields(strategy) if _is_plain(value := vars(strategy)[f.name])}


def name_of(strategy: Strategy) -> str:
    """Return the name of a strategy in results and run names; it also selects the run's random numbers.

    Built-in strategies keep theirs when a class is renamed or moved; others state one as `name`, or have that of their class.
    """
    if type(strategy) in IDENTITIES:
        return IDENTITIES[type(strategy)].rpartition(".")[2]
    return strategy.name if isinstance(strategy, Named) else type(strategy).__name__


def description_of(strategy: Strategy) -> dict[str, Any]:
    """Return name and settings as plain values, as in a result."""
    return {"name": name_of(strategy), "settings": settings_of(strategy)}


def random_numbers(strategy: Strategy, seed: int) -> np.random.Generator:
    """Return the generator of a strategy's search, which depends only on its name and the seed of the run."""
    return named_generator(seed, f"strategy {name_of(strategy)}")


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _changed(strategy: Strategy, settings: Mapping[str, Any]) -> Strategy:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  a tenth of a second, and only for given settings

    name = name_of(strategy)
    if not is_dataclass(strategy):
        raise InputError(f"{name} takes no settings by name: set them where it is made")
    known = {f.name: f.type for f in fields(strategy)}
    for key in settings:
        if key not in known:
            raise InputError(f"{name} has no setting {key!r}{nearest(key, known)}; it has: {', '.join(known)}")
    try:
        read = TypeAdapter(type(strategy)).validate_python({**settings_of(strategy), **settings})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, InputError):
            raise InputError(f"{name}: {cause}") from None
        raise InputError(f"{name}: setting {where} cannot be {first['input']!r}: {first['msg'].lower()}") from None
    return replace(strategy, **{key: vars(read)[key] for key in settings})
