"""Completions of a real tiny model as servers that score texts give them, each with its ways, for `Loopback(score=...)`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from pathlib import Path

Dialect: TypeAlias = Literal["openai", "vllm", "llama", "shifted", "deaf", "sure"]


class _Row(NamedTuple):
    token: str
    logprob: float | None


class ScoringServer:
    """The choice of a completion of one token, given the body of a request.

    Args:
        folder: of a transformers model.
        dialect: "openai" echoes; "vllm" ignores the echo and gives `prompt_logprobs`; "llama" echoes, and shows nothing of
            special tokens and of parts of a character; "shifted" does so too, but gives each token the log-probability
            after itself, as llama-cpp-python does without a start token; "deaf" ignores both wishes; "sure" holds all
            tokens for certain.
    """

    def __init__(self, folder: Path, dialect: Dialect = "openai") -> None:
        self.dialect = dialect
        self._tokenizer, self._network = _load(folder)
        # What it writes: nothing that would merge with what stands before.
        shown = {token: str(self._tokenizer.decode([token])) for token in range(len(self._tokenizer))}
        self._words = [token for token, text in shown.items() if text.startswith(" ") and text.strip().isalpha()]

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = self._tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            after = self._network(torch.tensor([ids])).logits[0].log_softmax(-1)  # [tokens, vocabulary]
        if self.dialect == "sure":
            after = torch.zeros_like(after)
        likeliest = max(self._words, key=lambda token: float(after[-1, token]))
        written = _Row(self._show(likeliest), float(after[-1, likeliest]))
        ahead = 0 if self.dialect == "shifted" else 1
        rows = [_Row(self._show(ids[0]), None)]
        rows += [_Row(self._show(ids[i]), float(after[i - ahead, ids[i]])) for i in range(1, len(ids))]
        choice: dict[str, Any] = {"text": written.token, "logprobs": _logprobs([written])}
        if body.get("echo") and self.dialect not in ("vllm", "deaf"):
            choice["logprobs"] = _logprobs(rows if self.dialect == "shifted" else [*rows, written])
        if "prompt_logprobs" in body and self.dialect == "vllm":
            choice["prompt_logprobs"] = [None, *map(self._position, ids[1:], rows[1:], after[:-1])]
        return choice

    def _show(self, token: int) -> str:
        text = str(self._tokenizer.decode([token]))
        if self.dialect in ("llama", "shifted"):
            return "" if token in self._tokenizer.all_special_ids else text.replace("�", "")
        return text

    def _position(self, token: int, row: _Row, after: torch.Tensor) -> dict[str, Any]:
        own = {"logprob": row.logprob, "rank": int((after > after[token]).sum()) + 1, "decoded_token": row.token}
        best = int(after.argmax())
        likeliest = {"logprob": float(after[best]), "rank": 1, "decoded_token": self._show(best)}
        return {str(token): own} | ({str(best): likeliest} if best != token else {})


@cache
def _load(folder: Path) -> tuple[Any, Any]:
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return AutoTokenizer.from_pretrained(folder), network.eval()


def _logprobs(rows: list[_Row]) -> dict[str, Any]:
    return {"tokens": [row.token for row in rows], "token_logprobs": [row.logprob for row in rows]}
