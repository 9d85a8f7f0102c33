"""Finds a local model's files and loads its tokenizer, config and network.

Converted GGUF files and folders are loaded without transformers, other models by it; both it and torch are imported only when needed,
because their import takes seconds. Knows nothing of how the network is run.
"""

from __future__ import annotations

import contextlib
import io
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError, nearest
from promptopt.models.local.catalog import KNOWN, content_digest, model_file
from promptopt.models.local.converted import config_of, ends_of, is_convertible, is_verified, part, remembered
from promptopt.models.local.seams import has_seams

if TYPE_CHECKING:
    import torch

    from promptopt.models.local.engine import Network
    from promptopt.models.local.head import Head
    from promptopt.models.local.native import MakesLinear

W16A32 = "w16a32"
"""A dtype: the weights of matrix products in float16, all else in float32; of native networks on CPUs."""
_DTYPES = ("auto", "float32", "bfloat16", "float16", W16A32)
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # of Linux: Nvidia's, Windows Subsystem's, AMD's


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
        if self._is_converted and is_verified(Path(self._source)):
            from promptopt.models.local.tokenizer import FastTokenizer  # noqa: PLC0415  the extra, loaded when used

            return FastTokenizer(Path(self._source))
        from transformers import AutoTokenizer  # noqa: PLC0415

        tokenizer = AutoTokenizer.from_pretrained(self._source)
        if not tokenizer.is_fast:
            raise InputError(f"{self.name} has no fast tokenizer, which provides token offsets: use another model")
        return tokenizer

    def has_seams(self, tokenizer: Any) -> bool:
        """Whether its tokenizer has seams; remembered for a converted model, because a large vocabulary takes a second to check."""
        if not self._is_converted:
            return has_seams(tokenizer)
        return remembered(Path(self._source), "seams", lambda: has_seams(tokenizer))

    @property
    def longest(self) -> int:
        """Maximum sequence length of the model; recurrent ones have no limit."""
        if self._convertible is not None:
            longest = config_of(Path(self._source)).get("max_position_embeddings")
        else:
            longest = getattr(self.config, "max_position_embeddings", None)
        return int(longest or sys.maxsize)

    @cached_property
    def config(self) -> Any:
        """The text model's config, as an object of transformers."""
        return self._whole_config.get_text_config()

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model is an encoder-decoder; none of those converted here is."""
        return self._convertible is None and bool(self._whole_config.is_encoder_decoder)

    def native(
        self, dtype: torch.dtype, linear: MakesLinear | None = None
    ) -> tuple[Network, Head, frozenset[int]] | None:
        """Load the network without transformers, its head, and the tokens that end a reply; None if it needs transformers.

        Args:
            dtype: of the weights.
            linear: makes linear layers, if not by default.
        """
        original = self._convertible
        if original is None:
            return None
        folder = part(original, str(dtype).removeprefix("torch."))
        if not folder.exists():
            from promptopt.models.local.conversion import weights_folder  # noqa: PLC0415

            with contextlib.suppress(OSError), contextlib.redirect_stderr(io.StringIO()):
                weights_folder(original, dtype)
        if not folder.exists() or not is_verified(folder):
            return None
        from promptopt.models.local import native  # noqa: PLC0415

        weights = original if original.is_dir() else folder
        return *native.load(folder, weights, dtype, linear), ends_of(folder)

    def network(self, dtype: torch.dtype, device: torch.device) -> Any:
        """Load the network by transformers."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: PLC0415

        loader = AutoModelForSeq2SeqLM if self.is_encoder_decoder else AutoModelForCausalLM
        # Output of transformers, such as progress bars, would break our own progress line.
        with contextlib.redirect_stderr(io.StringIO()):
            if self._gguf_file is None:
                network: Any = loader.from_pretrained(str(self._location), dtype=dtype)
            else:
                from promptopt.models.local import conversion  # noqa: PLC0415

                network = conversion.network(self._gguf_file, dtype)
        return network.to(device).eval()

    def digest(self) -> str:
        """Return the SHA-256 of the files, or the commit of a hub model."""
        if not isinstance(self._location, Path):
            return str(self.config._commit_hash)  # noqa: SLF001  transformers has no public name for a hub model's commit
        return content_digest(self._location)

    @cached_property
    def _whole_config(self) -> Any:
        from transformers import AutoConfig  # noqa: PLC0415

        return AutoConfig.from_pretrained(self._source)

    @property
    def _gguf_file(self) -> Path | None:
        """The GGUF file, if the model is one."""
        return self._location if isinstance(self._location, Path) and self._location.is_file() else None

    @cached_property
    def _convertible(self) -> Path | None:
        """The GGUF file or the folder, if the model may be run without transformers."""
        location = self._location
        return location if isinstance(location, Path) and is_convertible(location) else None

    @property
    def _is_converted(self) -> bool:
        """Whether tokenizer and config are those that the conversion wrote."""
        return self._convertible is not None and self._source != str(self._location)

    @cached_property
    def _source(self) -> str:
        """The folder or hub name from which tokenizer and config are loaded."""
        original = self._convertible
        if original is None:
            return str(self._location)
        folder = part(original, "tokenizer")
        if not folder.exists():
            from promptopt.models.local.conversion import tokenizer_folder  # noqa: PLC0415

            folder = tokenizer_folder(original)
        return str(folder if original.is_file() or is_verified(folder) else original)


def choose_device(device: str) -> str:
    """Return "cpu", "cuda" or the like; "auto" uses a GPU if there is one.

    Torch is asked only where there may be one.
    """
    if device != "auto":
        return device
    if sys.platform == "linux" and not any(Path(name).exists() for name in _GPU_DEVICES):
        return "cpu"
    import torch  # noqa: PLC0415

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(dtype: str, device: str) -> str:
    """Return the dtype; "auto" is bfloat16 if the hardware multiplies it natively, else float32.

    On two cores with AVX512-BF16 a bfloat16 product ran at twice the float32 rate.

    Raises:
        InputError: the dtype is unknown, or not for this device.
    """
    if dtype not in _DTYPES:
        raise InputError(f"unknown dtype {dtype!r}{nearest(dtype, _DTYPES)}; known: {', '.join(_DTYPES)}")
    if dtype == W16A32 and device != "cpu":
        raise InputError(f"the dtype {W16A32!r} is for the device cpu, not {device}: use float16")
    if dtype != "auto":
        return dtype
    cpu_info = Path("/proc/cpuinfo")
    native = cpu_info.exists() and any(flag in cpu_info.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    return "bfloat16" if device.startswith("cuda") or native else "float32"


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
