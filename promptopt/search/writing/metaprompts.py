"""Meta-prompts: templates of the messages to a prompt writer, one file per job, with named slots.

Shipped as `meta/*.txt`; a user's folder may replace any of them.
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
_SEPARATOR = "---"  # line between system message and user message


@dataclass(frozen=True)
class MetaPrompts:
    """The meta-prompts: shipped ones, replaced by files of the same name in a folder.

    A file holds the system message, a line `---`, and the user message with slots such as `{{task}}`. Paragraphs whose slots
    are all empty are left out, so put a heading into the same paragraph as its content.

    Args:
        folder: folder with files such as `improve.txt`; "" for the shipped ones only.

    Raises:
        InputError: the folder does not exist, a file matches no job or lacks the line `---`, or slots are unknown or missing.
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
        """Return the messages of a job with all slots filled."""
        system, user = (_filled(text, values) for text in self._texts[job])
        return (*([Message("system", system)] if system else []), Message("user", user))


def _overrides(folder: str) -> list[Path]:
    if not Path(folder).is_dir():
        raise InputError(f"there is no folder {folder!r} of meta-prompts: name one with files such as improve.txt")
    meta_files = sorted(Path(folder).glob("*.txt"))
    if not meta_files:
        raise InputError(f"the folder {folder!r} holds no meta-prompt: its files are named {_names()}")
    for file in meta_files:
        if file.stem not in JOBS:
            raise InputError(
                f"{file} is not the name of a meta-prompt{nearest(file.stem, JOBS)}: files are named {_names()}"
            )
    return meta_files


def _names() -> str:
    return ", ".join(f"{job}.txt" for job in JOBS)


def _checked(file: Path, shipped: tuple[str, str]) -> tuple[str, str]:
    """Return the parts of a user's file after checking that its slots match the shipped ones."""
    try:
        parts = _parts(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the meta-prompt {file} ({error}): give a file of UTF-8 text") from error
    expected, actual = (set(_SLOT.findall("\n".join(texts))) for texts in (shipped, parts))
    for slot in sorted(actual - expected):
        raise InputError(
            f"the meta-prompt {file} has the slot {{{{{slot}}}}}, which its job does not fill{nearest(slot, expected)}; "
            f"slots: {', '.join(sorted(expected))}"
        )
    for slot in sorted(expected - actual):
        raise InputError(f"the meta-prompt {file} lacks the slot {{{{{slot}}}}}: add it")
    return parts


def _parts(text: str, where: str) -> tuple[str, str]:
    lines = text.splitlines()
    if _SEPARATOR not in lines:
        raise InputError(f"the meta-prompt {where} lacks the line {_SEPARATOR} between system message and user message")
    separator = lines.index(_SEPARATOR)
    return "\n".join(lines[:separator]).strip(), "\n".join(lines[separator + 1 :]).strip()


def _filled(text: str, values: dict[str, str]) -> str:
    paragraphs = re.split(r"\n\s*\n", text)
    slots = [_SLOT.findall(paragraph) for paragraph in paragraphs]
    kept = [p for p, names in zip(paragraphs, slots, strict=True) if not names or any(values[name] for name in names)]
    return _SLOT.sub(lambda match: values[match[1]], "\n\n".join(kept))
