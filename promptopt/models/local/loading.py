"""Finds a local model's files and loads tokenizer, settings and network through transformers.

Knows nothing of how the network is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from promptopt.errors import InputError, nearest
from promptopt.models.local.catalog import KNOWN, known_digest, model_file

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_WEIGHTS = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", ".gguf")


class Files:
    """Where a model is, and what is read from there, each part when it is first asked for.

    Args:
        name: a known model, a GGUF file, a folder, or a hub name.

    Raises:
        InputError: the model is not there.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._where = _find(name)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, a fast one.

        Raises:
            InputError: there is only a slow one.
        """
        tokenizer = AutoTokenizer.from_pretrained(self._source)
        if not tokenizer.is_fast:
            raise InputError(f"{self.name} has no fast tokenizer, which tells where tokens begin: use another model")
        return tokenizer

    @cached_property
    def config(self) -> Any:
        """The text model's settings."""
        return self._whole_config.get_text_config()

    @property
    def paired(self) -> bool:
        """Whether an encoder reads the context and a decoder writes what follows."""
        return bool(self._whole_config.is_encoder_decoder)

    def network(self, dtype: torch.dtype, device: torch.device) -> Any:
        """Load the weights."""
        loader = AutoModelForSeq2SeqLM if self.paired else AutoModelForCausalLM
        # What transformers says while loading, bars above all, would break the one line of progress.
        with contextlib.redirect_stderr(io.StringIO()):
            if self._packed is None:
                network: Any = loader.from_pretrained(self._source, dtype=dtype)
            else:
                from promptopt.models.local.converted import load  # noqa: PLC0415  only for GGUF files

                network = load(self._packed, loader, dtype)
        return network.to(device).eval()

    def digest(self) -> str:
        """Return the SHA-256 of the files, or the commit of a hub model."""
        if not isinstance(self._where, Path):
            return str(self.config._commit_hash)  # noqa: SLF001  where transformers keeps a hub model's revision
        if self._where.is_file():
            return known_digest(self._where)
        files = sorted(f for f in self._where.iterdir() if f.suffix in _WEIGHTS)
        listed = "".join(f"{file.name} {known_digest(file)}\n" for file in files)
        return hashlib.sha256(listed.encode()).hexdigest()

    @cached_property
    def _whole_config(self) -> Any:
        return AutoConfig.from_pretrained(self._source)

    @property
    def _packed(self) -> Path | None:
        """The GGUF file, if it is one."""
        return self._where if isinstance(self._where, Path) and self._where.is_file() else None

    @cached_property
    def _source(self) -> str:
        """The folder or hub name from which tokenizer and settings are read."""
        if self._packed is None:
            return str(self._where)
        from promptopt.models.local.converted import tokenizer_folder  # noqa: PLC0415  only for GGUF files

        return str(tokenizer_folder(self._packed))


def choose_device(device: str) -> torch.device:
    """Return the device; "auto" takes a GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype; "auto" is bfloat16 where the hardware multiplies it natively, else float32.

    On two cores with AVX512-BF16 a bfloat16 product ran at twice the float32 rate.

    Raises:
        InputError: no such dtype.
    """
    if dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}{nearest(dtype, _DTYPES)}; known: {', '.join(_DTYPES)}")
    if dtype != "auto":
        return getattr(torch, dtype)  # type: ignore[no-any-return]
    flags = Path("/proc/cpuinfo")
    native = flags.exists() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if device.type == "cuda" or native else torch.float32


def _find(name: str) -> Path | str:
    """Return the file or folder behind a name, or the name itself for the hub."""
    if name in KNOWN:
        path = model_file(name)
        if not path.exists():
            raise InputError(f"the model {name!r} is not here yet: promptopt models fetch {name}")
        return path
    path = Path(name).expanduser()
    if path.exists():
        return path
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith("."):
        raise InputError(f"there is no model file or folder {name!r}: check the path")
    return name
