"""Files of converted models, which load fast: a tokenizer, a config, and weights that are mapped into memory.

They are in the user's cache, under the digest of the original; `conversion` writes them. The weights of a folder are not copied.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from promptopt._version import __version__
from promptopt.models.local.catalog import content_digest, converted_directory
from promptopt.utils.files import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

VERIFIED = "verified.json"
"""A file in a converted part: whether it was seen to give the same results without transformers as with it."""


FAMILIES: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)},
    "qwen2": {"hidden_act": ("silu",), "use_sliding_window": (False,)},
    "gemma3_text": {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False,),
        "attn_logit_softcapping": (None,),
        "use_bidirectional_attention": (False, None),
    },
}
"""Model types that can run without transformers -> the settings of the config that they may have."""


def is_convertible(path: Path) -> bool:
    """Whether a file or folder may be run without transformers: a GGUF file, or a folder of a known family in usual files."""
    if path.is_file():
        return True
    files = [path / "config.json", path / "tokenizer.json"]
    return (
        all(file.exists() for file in files)
        and any(path.glob("*.safetensors"))
        and config_of(path).get("model_type") in FAMILIES
    )


def part(path: Path, name: str) -> Path:
    """Return the folder of one part of a converted file or folder, whether it exists or not."""
    return converted_directory() / content_digest(path) / name


def is_verified(folder: Path) -> bool:
    """Whether the part works without transformers."""
    return (folder / VERIFIED).exists() and bool(_read(folder / VERIFIED))


def config_of(folder: Path) -> Mapping[str, Any]:
    """Return the model's config."""
    return dict(_read(folder / "config.json"))


def ends_of(folder: Path) -> frozenset[int]:
    """Return the tokens that end a reply, of the generation config."""
    ends = _read(folder / "generation_config.json").get("eos_token_id")
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def remembered(folder: Path, name: str, find: Callable[[], bool]) -> bool:
    """Return a property of a converted part, computed once per version of the package and then stored in the part."""
    path = folder / f"{name}-{__version__}.json"
    if path.exists():
        return bool(_read(path))
    value = find()
    with contextlib.suppress(OSError):
        write_private(path, json.dumps(value))
    return value


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
