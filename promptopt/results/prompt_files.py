"""The prompts of a program as files, and what changed in them. Writes nothing."""

from __future__ import annotations

import json
import re
from difflib import unified_diff
from typing import TYPE_CHECKING

from promptopt.prompt import Prompts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from promptopt.prompt import Prompt


def prompt_files(prompts: Prompts) -> dict[str, str]:
    """Return {file name: contents}: `NAME.txt` with each text, and `NAME.json` for prompts with demonstrations or turns.

    Characters that a file name may not have on some system become `-`; a name that is taken then gets a number.
    """
    files = dict[str, str]()
    for base, (_, prompt) in zip(file_names(prompts.names), prompts.components, strict=True):
        files[f"{base}.txt"] = f"{prompt.text}\n"
        if prompt.demonstrations or prompt.turns:
            files[f"{base}.json"] = json.dumps(prompt.to_json(), ensure_ascii=False, indent=1) + "\n"
    return files


def file_names(names: Iterable[str]) -> list[str]:
    """Return a file name without ending for each name of a prompt; they differ on every system."""
    out = list[str]()
    for name in names:
        out.append(_free(re.sub(r"[^\w.-]", "-", name), out))
    return out


def prompt_diff(seed: Prompt, chosen: Prompt) -> str:
    """Return a unified diff from the files of a program's seed prompts to those of the chosen ones.

    Returns:
        The diff, which `patch -p1` applies in a folder of such files; "" if nothing changed or the prompts are no program's.
    """
    if not isinstance(seed, Prompts) or not isinstance(chosen, Prompts):
        return ""
    before, after = prompt_files(seed), prompt_files(chosen)
    parts = [_file_diff(name, before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]
    return "\n".join(filter(None, parts))


def _file_diff(name: str, before: str | None, after: str | None) -> str:
    old, new = ("/dev/null" if text is None else f"{side}/{name}" for side, text in (("a", before), ("b", after)))
    lines = unified_diff((before or "").split("\n")[:-1], (after or "").split("\n")[:-1], old, new, lineterm="")
    return "\n".join(lines)


def _free(base: str, names: Sequence[str]) -> str:
    """Return a base name that no file has yet, in upper or lower case."""
    taken, number, name = {other.lower() for other in names}, 1, base
    while name.lower() in taken:
        number += 1
        name = f"{base}-{number}"
    return name
