"""Create the peers' environments: `python -m benchmarks.arena.peers FOLDER` creates FOLDER/LIBRARY for each library.

Existing environments are updated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from .methods import REQUIREMENTS


def make(folder: Path, library: str) -> None:
    """Make a library's environment in `folder`."""
    place = folder / library
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)  # noqa: S603
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS[library]]
    subprocess.run(pip, check=True)  # noqa: S603


def main() -> None:
    """Make the environments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena.peers", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "libraries", nargs="*", metavar="LIBRARY", help=f"of {', '.join(REQUIREMENTS)}; by default, all"
    )
    given = parser.parse_args()
    for library in given.libraries or REQUIREMENTS:
        if library not in REQUIREMENTS:
            parser.error(f"unknown library {library!r}: use some of {', '.join(REQUIREMENTS)}")
        print(f"{library}: {' '.join(REQUIREMENTS[library])}", flush=True)
        make(given.folder, library)


if __name__ == "__main__":
    main()
