"""Converts GGUF files and folders once into files that load fast.

A GGUF file stores its vocabulary as hundreds of thousands of small records and its weights quantized; reading them in Python
takes half a minute or more. For a folder, only the tokenizer and the config are written,
with the defaults that transformers fills in. Each converted part is run once without transformers, whose import takes
seconds; if that gives the same results, later runs do without it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import logging
import os
import shutil
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from promptopt.models.local import native
from promptopt.models.local.converted import VERIFIED, config_of, part
from promptopt.models.local.engine import Engine
from promptopt.models.local.head import Head
from promptopt.models.local.tokenizer import FastTokenizer
from promptopt.models.local.trial import SEQUENCES, engine_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_log = logging.getLogger(__name__)

_ABANDONED = 3600  # seconds after which an unfinished folder without a new file belongs to a killed process
_TEXTS = (
    "",
    " ",
    "a",
    "Review: it's a good-looking film,\n\n\tsaid 1,234 of 5 people.  Sentiment:",
    "naïve café 北京 🙂 e\u0301",
    "<s>[INST] <|im_start|>user\nHi<|im_end|></s>",
)
_CHATS = (
    [("user", " Hello. ")],
    [("system", "Be brief."), ("user", "Hello.")],
    [("user", "One?"), ("assistant", "1"), ("user", "Two?")],
)


def weights_folder(path: Path, dtype: torch.dtype) -> Path:
    """Return the folder with the network and config of a GGUF file, dequantized to `dtype`, or with the config of a folder.

    It is written if it does not exist.

    Raises:
        OSError: the cache cannot be written.
    """
    try:
        return _converted(path, str(dtype).removeprefix("torch."), partial(_write_network, path, dtype))
    except SafetensorError as error:  # such as on a full disk
        raise OSError(f"cannot write the weights of {path.name}: {error}") from error


def tokenizer_folder(path: Path) -> Path:
    """Return the folder with tokenizer and config of a file or folder; a temporary one if the cache cannot be written."""
    try:
        return _converted(path, "tokenizer", partial(_write_tokenizer, path))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="promptopt-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _write_tokenizer(path, folder)
        return folder


def network(path: Path, dtype: torch.dtype) -> Any:
    """Return transformers' network of a GGUF file; loaded slowly if the cache cannot be written."""
    try:
        return AutoModelForCausalLM.from_pretrained(weights_folder(path, dtype), dtype=dtype)
    except OSError:
        return _dequantized(path, dtype)


def _write_tokenizer(path: Path, folder: Path) -> None:
    given: dict[str, Any] = {"gguf_file": path.name} if path.is_file() else {}
    place = path.parent if path.is_file() else path
    AutoTokenizer.from_pretrained(place, **given).save_pretrained(folder)
    AutoConfig.from_pretrained(place, **given).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)  # with what loading added, such as the normalizer of Qwen
    same = tokenizer.is_fast and _outputs(FastTokenizer(folder)) == _outputs(tokenizer)
    (folder / VERIFIED).write_text(json.dumps(same), encoding="utf-8")


def _outputs(tokenizer: Any) -> list[Any]:
    """Return everything that is used of a tokenizer, for some texts and chats."""
    outputs: list[Any] = [tokenizer.bos_token, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template]
    for special in (True, False):
        encoded = tokenizer(list(_TEXTS), add_special_tokens=special, return_offsets_mapping=True)
        outputs += [encoded["input_ids"], [list(map(tuple, row)) for row in encoded["offset_mapping"]]]
        outputs += [tokenizer.decode(ids, skip_special_tokens=special) for ids in encoded["input_ids"]]
    for chat in _CHATS if tokenizer.chat_template else ():
        turns = [{"role": role, "content": content} for role, content in chat]
        try:
            outputs.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # noqa: BLE001  a template may raise anything
            outputs.append(type(error).__name__)
    return outputs


def _write_network(path: Path, dtype: torch.dtype, folder: Path) -> None:
    expected = _save(path, dtype, folder)
    gc.collect()  # two networks in memory would be too many for a large model
    same, weights = False, folder if path.is_file() else path
    if expected is not None and native.supports(config_of(folder)):
        with contextlib.suppress(KeyError):  # a folder may name its weights otherwise
            same = torch.equal(_states(Engine(native.load(folder, weights, dtype)[0])), expected)
    (folder / VERIFIED).write_text(json.dumps(same), encoding="utf-8")


def _save(path: Path, dtype: torch.dtype, folder: Path) -> torch.Tensor | None:
    """Save a network, without weights if the original is a folder; return its hidden states for a few tokens.

    Returns:
        None if the engine cannot run it.
    """
    if path.is_file():
        whole: Any = _dequantized(path, dtype)
        whole.config.__dict__.pop("quantization_config", None)
        whole.hf_quantizer = None  # it would prevent saving
        whole.save_pretrained(folder)
    else:
        whole = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        whole.config.save_pretrained(folder)
        whole.generation_config.save_pretrained(folder)
    engine = engine_for(whole.eval(), Head.of(whole), path.name)
    return _states(engine) if isinstance(engine, Engine) else None


@torch.inference_mode()
def _states(engine: Engine) -> torch.Tensor:
    return engine.decoding_batch().start(SEQUENCES)


def _dequantized(path: Path, dtype: torch.dtype) -> Any:
    """Load a GGUF file directly; weights left quantized would be dequantized in every pass."""
    config = transformers.GgufConfig(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=dtype, quantization_config=config
    )


def _converted(path: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Return the folder of one part of the conversion; writes it atomically if it does not exist."""
    target = part(path, name)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target.parent)
    _log.info("converting %s once (%s): later runs load it in seconds", path.name, name)
    unfinished = Path(tempfile.mkdtemp(".partial", f".{name}.", target.parent))
    try:
        with _cached_gguf_reading(), contextlib.redirect_stderr(io.StringIO()):
            write(unfinished)
        with contextlib.suppress(OSError):  # another process was first
            os.rename(unfinished, target)  # noqa: PTH104  replaces nothing
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left; no living one goes on for so long without a new file."""
    for unfinished in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):  # another process was first
            if time.time() - unfinished.stat().st_mtime > _ABANDONED:
                shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def _cached_gguf_reading() -> Generator[None]:
    """Cache two functions of `gguf`: transformers reads the file four times, and looks up names once per layer."""
    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in originals.items():
            setattr(gguf, name, cache(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(gguf, name, function)
