"""Converts GGUF files once into files that load fast: a tokenizer, a config, and memory-mapped weights.

A GGUF file stores its vocabulary as hundreds of thousands of small records and its weights quantized; reading them in Python
takes half a minute or more. Converted files are in the user's cache, under the digest of the GGUF file.
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
    """Load the network of a GGUF file; slowly if the cache cannot be written."""
    try:
        return loader.from_pretrained(weights_folder(path, loader, dtype), dtype=dtype)
    except (OSError, SafetensorError):
        return _dequantized(path, loader, dtype)


def weights_folder(path: Path, loader: Any, dtype: torch.dtype) -> Path:
    """Return a folder with the network and config of a GGUF file, dequantized to `dtype`.

    Raises:
        OSError: the cache cannot be written.
        SafetensorError: the cache cannot be written.
    """

    def write(folder: Path) -> None:
        network = _dequantized(path, loader, dtype)
        network.config.__dict__.pop("quantization_config", None)
        network.hf_quantizer = None  # it would prevent saving
        network.save_pretrained(folder)

    return _converted(path, str(dtype).removeprefix("torch."), write)


def tokenizer_folder(path: Path) -> Path:
    """Return a folder with the tokenizer and config of a GGUF file."""
    try:
        return _converted(path, "tokenizer", partial(_write_tokenizer, path))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="promptopt-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _write_tokenizer(path, folder)
        return folder


def _write_tokenizer(path: Path, folder: Path) -> None:
    for kind in (AutoTokenizer, AutoConfig):
        kind.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def _dequantized(path: Path, loader: Any, dtype: torch.dtype) -> Any:
    """Load a GGUF file directly; weights left quantized would be dequantized in every pass."""
    config = transformers.GgufConfig(dequantize=True)
    return loader.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype, quantization_config=config)


def _converted(path: Path, part: str, write: Callable[[Path], None]) -> Path:
    """Return the folder of one part of the conversion; writes it atomically if it does not exist."""
    target = converted_directory() / known_digest(path) / part
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _log.info("converting %s once (%s), into %s", path.name, part, target.parent)
    unfinished = Path(tempfile.mkdtemp(".partial", f".{part}.", target.parent))
    try:
        with _cached_gguf_reading(), contextlib.redirect_stderr(io.StringIO()):
            write(unfinished)
        with contextlib.suppress(OSError):  # another process was first
            os.rename(unfinished, target)  # noqa: PTH104  replaces nothing
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


@contextlib.contextmanager
def _cached_gguf_reading() -> Iterator[None]:
    """Cache two functions of `gguf`: transformers reads the file four times, and looks up names once per layer."""
    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in originals.items():
            setattr(gguf, name, cache(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(gguf, name, function)
