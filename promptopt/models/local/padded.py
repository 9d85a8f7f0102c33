"""The way around for networks whose attention cannot be told who sees whom (recurrent ones, say): whole padded sequences.

The same interface as the engine's. Knows nothing of text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from promptopt.models.local.trie import merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from promptopt.models.local.trie import Ints, Trie

_PASS_TOKENS = {"cpu": 1024, "cuda": 8192}  # padding included


class Padded:
    """A network that runs whole sequences, right-padded: what comes after a token never reaches it.

    Args:
        network: a transformers causal language model.
    """

    def __init__(self, network: Any) -> None:
        self.computed = 0  # tokens so far, padding included
        self._body = network.base_model
        self._device: torch.device = network.device
        self._most = _PASS_TOKENS.get(self._device.type, _PASS_TOKENS["cpu"])

    @torch.inference_mode()
    def read(self, trie: Trie, wanted: Ints) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Yield the wanted nodes and their hidden states [nodes, hidden], a batch at a time.

        Args:
            trie: whose rows that own wanted nodes are run whole.
            wanted: nodes in ascending order.
        """
        rows = np.unique(trie.rows[wanted])
        while len(rows):
            longest = np.maximum.accumulate(trie.lengths[rows])
            count = max(1, int(np.searchsorted(longest * np.arange(1, len(rows) + 1), self._most, side="right")))
            batch, rows = rows[:count], rows[count:]
            nodes = wanted[np.isin(trie.rows[wanted], batch)]
            paths = trie.paths[batch, : longest[count - 1]]
            ids = torch.from_numpy(np.where(paths >= 0, trie.tokens[paths], 0)).to(self._device)
            hidden = self._body(input_ids=ids, use_cache=False).last_hidden_state
            self.computed += ids.numel()
            at = np.searchsorted(batch, trie.rows[nodes]), trie.depths[nodes]
            yield nodes, hidden[tuple(torch.from_numpy(x).to(self._device) for x in at)]

    def continued(self) -> Recomputed:
        """Return an empty set of growing rows."""
        return Recomputed(self)


class Recomputed:
    """Growing rows of tokens that are run whole at every step."""

    def __init__(self, engine: Padded) -> None:
        self._engine = engine
        self._rows: list[tuple[int, ...]] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Run the prompts; return the hidden state at each one's last token, [rows, hidden]."""
        self._rows = [tuple(prompt) for prompt in prompts]
        trie = merge(self._rows)
        ends = np.array([trie.nodes(i)[-1] for i in range(len(prompts))])
        wanted = np.unique(ends)
        hidden = torch.cat([states for _, states in self._engine.read(trie, wanted)])
        return hidden[torch.from_numpy(np.searchsorted(wanted, ends)).to(hidden.device)]

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add one token to every row; return the hidden states there, [rows, hidden]."""
        return self.start([(*row, token) for row, token in zip(self._rows, tokens, strict=True)])

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._rows = [self._rows[i] for i in rows]
