"""GGUF files, converted once into files that load at once: a tokenizer, settings, and weights that are mapped into memory.

A GGUF file holds its vocabulary as hundreds of thousands of small records and its weights packed; both take Python half a
minute and more to read. The converted files are kept in the user's cache, under the digest of the original.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from promptopt.models.local.catalog import converted_directory, known_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

_log = logging.getLogger(__name__)


def load(path: Path, loader: Any, dtype: torch.dtype) -> Any:
    """Load the network of a GGUF file; a cache that cannot be written only costs the time."""
    try:
        return loader.from_pretrained(weights_folder(path, loader, dtype), dtype=dtype)
    except (OSError, SafetensorError):
        return _unpacked(path, loader, dtype)


def weights_folder(path: Path, loader: Any, dtype: torch.dtype) -> Path:
    """Return a folder that holds the network of a GGUF file and its settings, the weights unpacked in `dtype`.

    Raises:
        OSError: the cache cannot be written.
        SafetensorError: likewise.
    """

    def write(folder: Path) -> None:
        network = _unpacked(path, loader, dtype)
        network.config.__dict__.pop("quantization_config", None)
        network.hf_quantizer = None  # which would refuse to be saved
        network.save_pretrained(folder)

    return _once(path, str(dtype).removeprefix("torch."), write)


def tokenizer_folder(path: Path) -> Path:
    """Return a folder that holds the tokenizer and the settings of a GGUF file."""
    try:
        return _once(path, "tokenizer", partial(_write_tokenizer, path))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="promptopt-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _write_tokenizer(path, folder)
        return folder


def _write_tokenizer(path: Path, folder: Path) -> None:
    for kind in (AutoTokenizer, AutoConfig):
        kind.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def _unpacked(path: Path, loader: Any, dtype: torch.dtype) -> Any:
    """Load a GGUF file itself; weights left packed would be unpacked again in every pass."""
    config = transformers.GgufConfig(dequantize=True)
    return loader.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype, quantization_config=config)


def _once(path: Path, part: str, write: Callable[[Path], None]) -> Path:
    """Return the folder of one part; it is written first where it is not there, whole or not at all."""
    target = converted_directory() / known_digest(path) / part
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _log.info("%s is converted once (%s), into %s", path.name, part, target.parent)
    unfinished = Path(tempfile.mkdtemp(".partial", f".{part}.", target.parent))
    try:
        with _read_once(), contextlib.redirect_stderr(io.StringIO()):
            write(unfinished)
        with contextlib.suppress(OSError):  # another process was first
            os.rename(unfinished, target)  # noqa: PTH104  replaces nothing
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Let transformers read one GGUF file once: it does so four times, and looks for names once for each layer."""
    slow = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in slow.items():
            setattr(gguf, name, cache(function))
        yield
    finally:
        for name, function in slow.items():
            setattr(gguf, name, function)
