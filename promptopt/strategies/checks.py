"""Checks of a strategy's settings. Each error names the setting, the value and the values allowed."""

from __future__ import annotations

from promptopt.errors import InputError


def check_at_least(strategy: object, minimum: int, *names: str) -> None:
    """Raise InputError if one of these settings is below the minimum."""
    for name in names:
        if (value := getattr(strategy, name)) < minimum:
            raise InputError(f"{name} must be at least {minimum}, not {value}")


def check_share(strategy: object, *names: str) -> None:
    """Raise InputError if one of these settings is not in (0, 1]."""
    for name in names:
        if not 0 < (value := getattr(strategy, name)) <= 1:
            raise InputError(f"{name} must be in (0, 1], not {value}")


def check_choice(strategy: object, name: str, *choices: str) -> None:
    """Raise InputError if this setting is none of the choices."""
    if (value := getattr(strategy, name)) not in choices:
        *first, last = map(repr, choices)
        raise InputError(f"{name} must be {', '.join(first)} or {last}, not {value!r}")
