"""Fallback for networks that cannot run tries (recurrent ones, encoder-decoders): runs whole padded sequences.

Has the same interface as the engine. Knows nothing of text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from promptopt.models.local.encoding import BREAK
from promptopt.models.local.trie import merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from promptopt.models.local.trie import Ints, Trie

_PASS_TOKENS = {"cpu": 1024, "cuda": 8192}  # including padding


class Padded:
    """A network that runs whole sequences, right-padded: later tokens never affect earlier ones.

    Args:
        network: a transformers language model, causal or encoder-decoder.
    """

    def __init__(self, network: Any) -> None:
        self.computed = 0  # tokens, including padding
        self._network = network
        self._run = _run_encoder_decoder if network.config.is_encoder_decoder else _run_causal
        self._device: torch.device = network.device
        self._pass_tokens = _PASS_TOKENS.get(self._device.type, _PASS_TOKENS["cpu"])

    @torch.inference_mode()
    def read(self, trie: Trie, wanted: Ints) -> Iterator[tuple[Ints, torch.Tensor]]:
        """Yield the wanted nodes and their hidden states [nodes, hidden], one batch at a time.

        Args:
            trie: rows that own wanted nodes are run in full.
            wanted: nodes in ascending order.
        """
        rows = np.unique(trie.rows[wanted])
        while len(rows):
            longest = np.maximum.accumulate(trie.lengths[rows])
            count = max(1, int(np.searchsorted(longest * np.arange(1, len(rows) + 1), self._pass_tokens, side="right")))
            batch, rows = rows[:count], rows[count:]
            nodes = wanted[np.isin(trie.rows[wanted], batch)]
            paths = trie.paths[batch, : longest[count - 1]]
            hidden = self._run(self._network, np.where(paths >= 0, trie.tokens[paths], 0))
            self.computed += paths.size
            indices = np.searchsorted(batch, trie.rows[nodes]), trie.depths[nodes]
            yield nodes, hidden[tuple(torch.from_numpy(x).to(self._device) for x in indices)]

    def decoding_batch(self) -> RecomputedBatch:
        """Return an empty batch for decoding."""
        return RecomputedBatch(self)


class RecomputedBatch:
    """Rows of tokens that are recomputed in full at every decoding step."""

    def __init__(self, engine: Padded) -> None:
        self._engine = engine
        self._rows: list[tuple[int, ...]] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Add rows after the others and run their prompts; return the hidden state at each one's last token, [rows, hidden]."""
        self._rows += map(tuple, prompts)
        return self._last_states(prompts)

    def append(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row; return its hidden states, [rows, hidden]."""
        self._rows = [(*row, token) for row, token in zip(self._rows, tokens, strict=True)]
        return self._last_states(self._rows)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows."""
        self._rows = [self._rows[i] for i in rows]

    def _last_states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        trie = merge(rows)
        ends = np.array([trie.nodes(i)[-1] for i in range(len(rows))])
        wanted = np.unique(ends)
        hidden = torch.cat([states for _, states in self._engine.read(trie, wanted)])
        return hidden[torch.from_numpy(np.searchsorted(wanted, ends)).to(hidden.device)]


def _run_causal(network: Any, tokens: Ints) -> torch.Tensor:
    """Return the hidden states of token sequences, [rows, longest, hidden]."""
    ids = torch.from_numpy(tokens).to(network.device)
    return torch.as_tensor(network.base_model(input_ids=ids, use_cache=False).last_hidden_state)


def _run_encoder_decoder(network: Any, tokens: Ints) -> torch.Tensor:
    """Return the decoder's hidden states at the tokens' positions, [rows, longest, hidden]; each distinct context runs once."""
    breaks = (tokens == BREAK).argmax(1)[:, None]
    positions = np.arange(tokens.shape[1])
    in_context = positions[: breaks.max()] < breaks
    contexts, context_of = np.unique(np.where(in_context, tokens[:, : breaks.max()], -1), axis=0, return_inverse=True)
    shift = np.minimum(breaks + positions[: len(positions) - breaks.min()], len(positions) - 1)
    decoded = np.take_along_axis(np.where(tokens == BREAK, start_token(network), tokens), shift, axis=1)

    ids, context_index = (torch.from_numpy(array).to(network.device) for array in (contexts, context_of.reshape(-1)))
    attention_mask = (ids >= 0).long()
    encoder, decoder = network.get_encoder(), network.get_decoder()
    states = encoder(input_ids=ids.clamp(min=0), attention_mask=attention_mask).last_hidden_state
    hidden = decoder(
        input_ids=torch.from_numpy(decoded).to(network.device),
        encoder_hidden_states=states[context_index],
        encoder_attention_mask=attention_mask[context_index],
        use_cache=False,
    ).last_hidden_state
    if getattr(network.config, "scale_decoder_outputs", False):  # T5 and similar: before the output matrix
        hidden = hidden * network.config.d_model**-0.5
    rows = torch.arange(len(tokens), device=network.device)[:, None]
    return torch.as_tensor(hidden[rows, torch.from_numpy(np.maximum(positions - breaks, 0)).to(network.device)])


def start_token(network: Any) -> int:
    """Return the token from which an encoder-decoder's decoder starts."""
    start = network.generation_config.decoder_start_token_id
    return int(network.config.decoder_start_token_id if start is None else start)
