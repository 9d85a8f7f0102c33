"""Finds seams: positions where a text can be split so that tokenizing the parts gives the tokens of the whole.

Shared prefixes up to a seam are tokenized once. A seam is a position between a letter and a space or line break that no
token spans and no pre-tokenization rule looks across. Only tokenizers known to have seams are split.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from promptopt.models.local.common_start import common_start

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEAM = re.compile(r"[A-Za-z](?=[ \n])")
_CROSSING = re.compile(r"[A-Za-z][ \nĠĊ▁]")  # in text, byte-level and SentencePiece vocabularies
_MIN_SHARING = 3  # following texts that must share a prefix for it to be split off
_MIN_GAIN = 64  # characters by which a new prefix must be longer

# Pre-tokenization patterns of GPT-4, Llama 3 and Qwen: a match that ends with a letter ends there whatever white space
# follows, and the next match begins there. GPT-2's pattern is built into `ByteLevel`.
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_SPACES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD_PATTERNS = {_LETTERS + r"\p{N}{1,3}" + _SPACES, _LETTERS + r"\p{N}" + _SPACES}

_SPACED = {
    "type": "Replace",
    "pattern": {"String": " "},
    "content": "▁",
}  # Gemma's normalizer; the next is its pre-tokenizer
_UNSPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def has_seams(tokenizer: Any) -> bool:
    """Whether a fast tokenizer is known to tokenize the two sides of a seam independently.

    That holds if BPE merges happen only inside words found by a known pattern. If nothing is pre-split, it holds if no token
    in the vocabulary crosses a seam, because every merge produces a token.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = state["model"], state["added_tokens"]
    if model["type"] != "BPE" or any(
        model[name] for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        return False
    if any(token[name] for token in added for name in ("lstrip", "rstrip", "single_word")):
        return False
    if any(_CROSSING.search(token) for token in tokenizer.get_vocab()):  # includes added tokens
        return False
    with_special, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    if with_special[len(with_special) - len(plain) :] != plain:  # the tokenizer appends a token
        return False
    splits, normalizer = state["pre_tokenizer"], state["normalizer"]
    if normalizer == _SPACED:
        return bool(splits == _UNSPLIT and not model["ignore_merges"])
    parts = splits["pretokenizers"] if splits and splits["type"] == "Sequence" else [splits]
    return normalizer in (None, {"type": "NFC"}) and all(map(_is_known, parts)) and any(map(_finds_words, parts))


def shared_starts(texts: Sequence[str]) -> list[int]:
    """Return the length of the prefix, up to a seam, that each text shares with its neighbours; 0 for none.

    Texts that share a prefix should be adjacent, like the examples of one prompt.
    """
    common = [common_start(first, second) for first, second in pairwise(texts)]
    out, head = [], ""
    for number, text in enumerate(texts):
        shared = min(common[number : number + _MIN_SHARING], default=0)
        if shared > len(head) + _MIN_GAIN or not text.startswith(head):
            head = text[: max((seam.end() for seam in _SEAM.finditer(text[:shared])), default=0)]
        out.append(len(head))
    return out


def _is_known(part: Any) -> bool:
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False} | {"type": "Digits"}:
            return True
    return _finds_words(part)


def _finds_words(part: Any) -> bool:
    match part:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return True
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return pattern in _WORD_PATTERNS
    return False
