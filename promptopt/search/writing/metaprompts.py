"""Meta-prompts: the texts around what a prompt writer is shown, one file a job, with named slots.

Shipped as `meta/*.txt`; a user's folder may replace any of them. Knows nothing of what fills the slots.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from promptopt.errors import InputError, nearest
from promptopt.prompt import Message

if TYPE_CHECKING:
    from promptopt.prompt import Context

JOBS = ("improve", "lists", "scale", "blind", "paraphrase", "combine", "summarise", "edit", "shorten")

_SLOT = re.compile(r"\{\{(\w+)\}\}")
_SEAM = "---"  # the line between the system message and the user's


@dataclass(frozen=True)
class MetaPrompts:
    """The meta-prompts, those of a folder in place of the shipped ones of the same name.

    A file is the system message, a line `---`, and the user message with slots such as `{{task}}`. A paragraph whose
    slots are all empty is left out, so that a heading stands in the paragraph of what it heads.

    Args:
        folder: with files such as `improve.txt`; "" for the shipped ones alone.

    Raises:
        InputError: no such folder, a file for no job, a file without the line `---`, an unknown slot or a missing one.
    """

    folder: str = ""
    _texts: dict[str, tuple[str, str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shipped = files("promptopt.search.writing") / "meta"
        texts = {job: _parts(shipped.joinpath(f"{job}.txt").read_text(encoding="utf-8"), job) for job in JOBS}
        for file in _overrides(self.folder) if self.folder else ():
            texts[file.stem] = _checked(file, texts[file.stem])
        object.__setattr__(self, "_texts", texts)

    def message(self, job: str, **values: str) -> Context:
        """Return the turns of a job, all its slots filled in one pass."""
        system, user = (_filled(text, values) for text in self._texts[job])
        return (*([Message("system", system)] if system else []), Message("user", user))


def _overrides(folder: str) -> list[Path]:
    if not Path(folder).is_dir():
        raise InputError(f"there is no folder {folder!r} of meta-prompts: name one with files such as improve.txt")
    found = sorted(Path(folder).glob("*.txt"))
    if not found:
        raise InputError(f"the folder {folder!r} holds no meta-prompt: its files are named {_names()}")
    for file in found:
        if file.stem not in JOBS:
            raise InputError(
                f"{file} is a meta-prompt for no job{nearest(file.stem, JOBS)}: files are named {_names()}"
            )
    return found


def _names() -> str:
    return ", ".join(f"{job}.txt" for job in JOBS)


def _checked(file: Path, shipped: tuple[str, str]) -> tuple[str, str]:
    """Return the parts of a user's file, whose slots must be those of the shipped one."""
    try:
        parts = _parts(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the meta-prompt {file} ({error}): give a file of UTF-8 text") from error
    wanted, given = (set(_SLOT.findall("\n".join(texts))) for texts in (shipped, parts))
    for slot in sorted(given - wanted):
        raise InputError(
            f"the meta-prompt {file} has the slot {{{{{slot}}}}}, which its job does not fill{nearest(slot, wanted)}; "
            f"slots: {', '.join(sorted(wanted))}"
        )
    for slot in sorted(wanted - given):
        raise InputError(f"the meta-prompt {file} lacks the slot {{{{{slot}}}}}: put it where that is to be shown")
    return parts


def _parts(text: str, where: str) -> tuple[str, str]:
    lines = text.splitlines()
    if _SEAM not in lines:
        raise InputError(f"the meta-prompt {where} lacks the line {_SEAM} between system message and user message")
    seam = lines.index(_SEAM)
    return "\n".join(lines[:seam]).strip(), "\n".join(lines[seam + 1 :]).strip()


def _filled(text: str, values: dict[str, str]) -> str:
    paragraphs = re.split(r"\n\s*\n", text)
    slots = [_SLOT.findall(paragraph) for paragraph in paragraphs]
    kept = [p for p, names in zip(paragraphs, slots, strict=True) if not names or any(values[name] for name in names)]
    return _SLOT.sub(lambda match: values[match[1]], "\n\n".join(kept))
