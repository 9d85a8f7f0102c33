"""Finds a local model's files and loads its tokenizer, config and network through transformers.

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
    """The files of a model; each part is loaded when first used.

    Args:
        name: a known model, a GGUF file, a folder, or a hub name.

    Raises:
        InputError: the model cannot be found.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._location = _find(name)

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer.

        Raises:
            InputError: the model has only a slow one.
        """
        tokenizer = AutoTokenizer.from_pretrained(self._source)
        if not tokenizer.is_fast:
            raise InputError(f"{self.name} has no fast tokenizer, which provides token offsets: use another model")
        return tokenizer

    @cached_property
    def config(self) -> Any:
        """The text model's config."""
        return self._whole_config.get_text_config()

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model is an encoder-decoder."""
        return bool(self._whole_config.is_encoder_decoder)

    def network(self, dtype: torch.dtype, device: torch.device) -> Any:
        """Load the weights."""
        loader = AutoModelForSeq2SeqLM if self.is_encoder_decoder else AutoModelForCausalLM
        # Output of transformers, such as progress bars, would break our own progress line.
        with contextlib.redirect_stderr(io.StringIO()):
            if self._gguf_file is None:
                network: Any = loader.from_pretrained(self._source, dtype=dtype)
            else:
                from promptopt.models.local.converted import load  # noqa: PLC0415  only for GGUF files

                network = load(self._gguf_file, loader, dtype)
        return network.to(device).eval()

    def digest(self) -> str:
        """Return the SHA-256 of the files, or the commit of a hub model."""
        if not isinstance(self._location, Path):
            return str(self.config._commit_hash)  # noqa: SLF001  transformers has no public name for a hub model's commit
        if self._location.is_file():
            return known_digest(self._location)
        files = sorted(f for f in self._location.iterdir() if f.suffix in _WEIGHTS)
        listed = "".join(f"{file.name} {known_digest(file)}\n" for file in files)
        return hashlib.sha256(listed.encode()).hexdigest()

    @cached_property
    def _whole_config(self) -> Any:
        return AutoConfig.from_pretrained(self._source)

    @property
    def _gguf_file(self) -> Path | None:
        """The GGUF file, if the model is one."""
        return self._location if isinstance(self._location, Path) and self._location.is_file() else None

    @cached_property
    def _source(self) -> str:
        """The folder or hub name from which tokenizer and config are loaded."""
        if self._gguf_file is None:
            return str(self._location)
        from promptopt.models.local.converted import tokenizer_folder  # noqa: PLC0415  only for GGUF files

        return str(tokenizer_folder(self._gguf_file))


def choose_device(device: str) -> torch.device:
    """Return the device; "auto" uses a GPU if there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype; "auto" is bfloat16 if the hardware multiplies it natively, else float32.

    On two cores with AVX512-BF16 a bfloat16 product ran at twice the float32 rate.

    Raises:
        InputError: the dtype is unknown.
    """
    if dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}{nearest(dtype, _DTYPES)}; known: {', '.join(_DTYPES)}")
    if dtype != "auto":
        return getattr(torch, dtype)  # type: ignore[no-any-return]
    cpu_info = Path("/proc/cpuinfo")
    native = cpu_info.exists() and any(flag in cpu_info.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if device.type == "cuda" or native else torch.float32


def _find(name: str) -> Path | str:
    """Return the file or folder of a model, or the name itself for a hub model."""
    if name in KNOWN:
        path = model_file(name)
        if not path.exists():
            raise InputError(f"the model {name!r} is not downloaded yet: run promptopt models fetch {name}")
        return path
    path = Path(name).expanduser()
    if path.exists():
        return path
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith("."):
        raise InputError(f"no model file or folder {name!r}: check the path")
    return name
