"""Find phrases that this project does not use: `python tests/prose.py FILE_OR_FOLDER ...` prints each with what to write.

`tests/house_phrases.txt` lists them. Markdown is read without its code blocks, Python line by line.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIST = Path(__file__).with_name("house_phrases.txt")
ENDINGS = (".md", ".py", ".html")


def phrases() -> list[tuple[re.Pattern[str], str]]:
    """Return the patterns of the list, and what to write in place of each."""
    lines = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [(re.compile(pattern, re.IGNORECASE), better) for pattern, _, better in (e.partition(" -> ") for e in lines)]


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files, and those in the folders."""
    for path in paths:
        yield from sorted(p for p in path.rglob("*") if p.suffix in ENDINGS) if path.is_dir() else [path]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers; of Markdown, those outside code blocks."""
    code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = path.suffix == ".md" and line.lstrip().startswith(("```", "~~~"))
        code ^= fence
        if not code and not fence:
            yield number, line


def findings(paths: Iterable[Path]) -> Iterator[str]:
    """Yield a line for each phrase found: where it is, and what to write."""
    refused = phrases()
    for path in files(paths):
        for number, line in prose(path):
            for pattern, better in refused:
                match = pattern.search(line)
                if match:
                    yield f"{path}:{number}: {match.group()!r}: write {better}"


if __name__ == "__main__":
    lines = list(findings(map(Path, sys.argv[1:])))
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.exit(bool(lines))
