"""Former names of modules and of what was in them: they work for one release, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

MODULES = {
    "promptopt.agreement": "promptopt.statistics.annotators",
    "promptopt.batches": "promptopt.evaluation.batch_journal",
    "promptopt.calls": "promptopt.evaluation.caller",
    "promptopt.categorical": "promptopt.search.categorical",
    "promptopt.dry_run": "promptopt.optimization.estimate",
    "promptopt.ledger": "promptopt.evaluation.ledger",
    "promptopt.memo_base": "promptopt.memo.store",
    "promptopt.models.bodies": "promptopt.models.hosted.bodies",
    "promptopt.models.catalog": "promptopt.models.local.catalog",
    "promptopt.models.completions": "promptopt.models.hosted.completions",
    "promptopt.models.dialect": "promptopt.models.hosted.dialect",
    "promptopt.models.openai": "promptopt.models.hosted.openai",
    "promptopt.models.anthropic": "promptopt.models.hosted.anthropic",
    "promptopt.pseudolabels": "promptopt.results.pseudo_labels",
    "promptopt.racing": "promptopt.evaluation.racing",
    "promptopt.result": "promptopt.results.result",
    "promptopt.run": "promptopt.search.run",
    "promptopt.scorer": "promptopt.evaluation.scorer",
    "promptopt.taskfile": "promptopt.data.task_file",
    "promptopt.variance": "promptopt.statistics.components",
}
"""Those that the documentation named."""
_OF_SCORES = {
    **dict.fromkeys(("Arrival", "Failure", "Response", "Usage"), "promptopt.replies"),
    **dict.fromkeys(("Floats", "nanmean", "paired_difference", "standard_error"), "promptopt.statistics.arrays"),
}
_OURS = (__name__, "promptopt.scores")


def of_scores(name: str) -> Any:
    """Return what `promptopt.scores` held.

    Raises:
        AttributeError: it never held that.
    """
    if name not in _OF_SCORES:
        raise AttributeError(f"module 'promptopt.scores' has no attribute {name!r}")
    _warn(f"promptopt.scores.{name}", f"{_OF_SCORES[name]}.{name}")
    return getattr(importlib.import_module(_OF_SCORES[name]), name)


def renamed(module: str, new_names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module in which some names changed.

    Args:
        module: full name of the module.
        new_names: former name -> new name.
    """

    def getattr_renamed(name: str) -> Any:
        if name not in new_names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", f"{module}.{new_names[name]}")
        return getattr(importlib.import_module(module), new_names[name])

    return getattr_renamed


class _Finder:  # not importlib.abc's, whose import takes longer than this package's
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002  as the protocol has it
        return ModuleSpec(name, _Renamed()) if name in MODULES else None  # type: ignore[arg-type]  # enough of a loader


class _Renamed:
    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return None: the import system makes an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name into the place of this empty one."""
        _warn(module.__name__, MODULES[module.__name__])
        sys.modules[module.__name__] = importlib.import_module(MODULES[module.__name__])


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is now {new}; the old name will be removed in the next release", DeprecationWarning, stacklevel=_depth()
    )


def _depth() -> int:
    """Return the stack level of the caller: the frames of this module are skipped, `warnings` skips the import system's."""
    depth, frame = 0, sys._getframe()  # noqa: SLF001  as `warnings` does
    while frame.f_back is not None and (
        "importlib" in frame.f_code.co_filename or frame.f_globals["__name__"] in _OURS
    ):
        depth, frame = depth + ("_bootstrap" not in frame.f_code.co_filename), frame.f_back
    return depth


sys.meta_path.append(_Finder())
