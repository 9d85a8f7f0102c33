"""A program of two prompts: write a search query, then answer from the passages that BM25 finds."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import bm25s

from promptopt import Ask, Example, Prompts, Response, tool

HANDBOOK = Path(__file__).parent / "handbook.md"
PASSAGES = 3


@tool(version="1")
def search(query: str) -> list[str]:
    """Return the passages of the handbook that share the most telling words with a query, the best first."""
    index, passages = _index()
    words = bm25s.tokenize([query], stopwords="en", show_progress=False)
    found, scores = index.retrieve(words, k=PASSAGES, show_progress=False)
    return [passages[i] for i, score in zip(found[0].tolist(), scores[0].tolist(), strict=True) if score > 0]


async def answer(ask: Ask, _: Prompts, example: Example) -> Response:
    """Answer a question about the island."""
    query = await ask("query", example)
    found = await ask.tool(search, f"{example.inputs['question']} {query.text}")
    return await ask("answer", example, passages="\n\n".join(found) or "nothing was found")


@lru_cache
def _index() -> tuple[Any, list[str]]:
    """Return the index, which is made at the first search, and its passages."""
    sections = HANDBOOK.read_text(encoding="utf-8").split("## ")[1:]
    passages = [": ".join(section.strip().split("\n", 1)) for section in sections]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(passages, stopwords="en", show_progress=False), show_progress=False)
    return index, passages
