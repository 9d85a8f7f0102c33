"""Where texts can be cut so that tokenising the parts gives the tokens of the whole: after a word, before white space.

What many texts start with is then tokenised once. A seam is a place between a letter and a space or line break that no
token reaches over and across which no rule looks; of a tokenizer that is not known to have such places, none is taken.
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
_CROSSING = re.compile(r"[A-Za-z][ \nĠĊ▁]")  # the two as texts, byte-level and SentencePiece vocabularies write them
_AHEAD = 3  # neighbours that must share a start before it is cut off
_WORTH = 64  # characters that a new start must be longer by

# Regular expressions after which a match that ends with a letter ends there whatever white space follows, and the next
# begins there: of GPT-4 and Llama 3, and of Qwen. GPT-2's is what `ByteLevel` does by itself.
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_SPACES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = {_LETTERS + r"\p{N}{1,3}" + _SPACES, _LETTERS + r"\p{N}" + _SPACES}

_SPACED = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}  # Gemma's, with the next
_UNSPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def has_seams(tokenizer: Any) -> bool:
    """Whether a fast tokenizer is known to cut the two sides of a seam as if each stood alone.

    It is where merges (BPE) are made inside words that a known rule has found, or, where nothing is split, where no token
    of the vocabulary crosses a seam: a merge makes a token, so that none does either.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = state["model"], state["added_tokens"]
    if model["type"] != "BPE" or any(
        model[name] for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        return False
    if any(token[name] for token in added for name in ("lstrip", "rstrip", "single_word")):
        return False
    if any(_CROSSING.search(token) for token in tokenizer.get_vocab()):  # with the added ones
        return False
    whole, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    if whole[len(whole) - len(plain) :] != plain:  # something is put behind a text
        return False
    splits, normalizer = state["pre_tokenizer"], state["normalizer"]
    if normalizer == _SPACED:
        return bool(splits == _UNSPLIT and not model["ignore_merges"])
    parts = splits["pretokenizers"] if splits and splits["type"] == "Sequence" else [splits]
    return normalizer in (None, {"type": "NFC"}) and all(map(_is_known, parts)) and any(map(_finds_words, parts))


def shared_starts(texts: Sequence[str]) -> list[int]:
    """Return how many characters of each text are a start, up to a seam, that it has in common with neighbours; 0 for none.

    Texts that differ in their ends should stand beside each other, as the items after one prompt do.
    """
    common = [common_start(first, second) for first, second in pairwise(texts)]
    out, head = [], ""
    for number, text in enumerate(texts):
        ahead = min(common[number : number + _AHEAD], default=0)
        if ahead > len(head) + _WORTH or not text.startswith(head):
            head = text[: max((found.end() for found in _SEAM.finditer(text[:ahead])), default=0)]
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
            return pattern in _WORDS
    return False
