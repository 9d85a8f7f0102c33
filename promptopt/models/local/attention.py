"""Tree attention: every token attends to its ancestors in the trie, block by block.

One function in the form that transformers calls (`attend`); what the tokens of a pass may see comes to it as `Pass`. Knows
nothing of tries or text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

NAME = "promptopt_tree"


Layers: TypeAlias = dict[int, tuple[torch.Tensor, torch.Tensor]]  # each [tokens, key heads, width]


class States:
    """Keys and values of tokens that later ones attend to, layer by layer: [tokens, key heads, width] each."""

    def __init__(self) -> None:
        self.length = 0
        self._layers: Layers = {}

    def put(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's states of a pass behind those that are kept; return both together."""
        stop = self.length + len(keys)
        stored = self._layers.get(layer)
        if stored is None or len(stored[0]) < stop:
            larger = (_larger(keys, stop), _larger(values, stop))
            for new, old in zip(larger, stored or (), strict=False):
                new[: self.length] = old[: self.length]
            stored = self._layers[layer] = larger
        stored[0][self.length : stop] = keys
        stored[1][self.length : stop] = values
        return stored[0][:stop], stored[1][:stop]

    def tail(self, tokens: int) -> Layers:
        """Return a copy of the states of the last pass, which had so many tokens."""
        part = slice(self.length, self.length + tokens)
        return {layer: (keys[part].clone(), values[part].clone()) for layer, (keys, values) in self._layers.items()}

    @torch.inference_mode()
    def keep(self, places: torch.Tensor) -> None:
        """Keep these of the states, the last pass's included, in this order; drop the rest."""
        for stored in self._layers.values():
            for states in stored:
                states[: len(places)] = states[places]
        self.length = len(places)


@dataclass
class Pass:
    """What `attend` must know of one pass.

    Args:
        states: of the tokens before the pass; those of the pass are put there.
        keys: [blocks * columns], places among the states.
        visible: [blocks, size, columns].
        depths: [blocks, size], of the tokens, for sliding windows.
        column_depths: [blocks, columns].
    """

    states: States
    keys: torch.Tensor
    visible: torch.Tensor
    depths: torch.Tensor
    column_depths: torch.Tensor
    _biases: dict[int | None, torch.Tensor] = field(default_factory=dict, init=False)

    def bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Return what is added to scores, [blocks, size, columns]: 0 where a column is seen, else -inf."""
        if window not in self._biases:
            seen = self.visible
            if window is not None:
                seen = seen & (self.depths[:, :, None] - self.column_depths[:, None] < window)
            self._biases[window] = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(
                ~seen, -torch.inf
            )
        return self._biases[window]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001
    *,
    promptopt_pass: Pass,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,  # noqa: ARG001  such as dropout, which a frozen model has not
) -> tuple[torch.Tensor, None]:
    """Attend within one pass; query [1, heads, tokens, width], key and value [1, key heads, tokens, width].

    Returns:
        [1, tokens, heads, width], and no weights.

    Raises:
        NotImplementedError: attention sinks, which are not built.
    """
    if s_aux is not None:
        raise NotImplementedError("attention sinks")
    layer: Any = module.layer_idx
    keys, values = promptopt_pass.states.put(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
    count, size, columns = promptopt_pass.visible.shape
    tokens, heads, width = query.shape[2], keys.shape[1], query.shape[3]
    keys = keys[promptopt_pass.keys].view(count, columns, heads, width).transpose(1, 2)
    values = values[promptopt_pass.keys].view(count, columns, heads, -1).transpose(1, 2)
    rows = pad(query[0].transpose(0, 1), (0, 0, 0, 0, 0, count * size - tokens))
    rows = rows.reshape(count, size, heads, -1, width).transpose(1, 2)  # [blocks, key heads, size, group, width]
    scale = width**-0.5 if scaling is None else scaling
    # Two products and a softmax of our own take 0.7 (1 demonstration a class) to 0.7 (4) of the time that SDPA takes for
    # the same blocks in bfloat16 on the CPU, whose kernel works on 32 rows at a time. On CUDA SDPA never stores the scores.
    bias = promptopt_pass.bias(sliding_window, query.dtype)
    if query.is_cuda and softcap is None:
        out = _sdpa(rows, keys, values, bias, scale=scale)
    else:
        out = _products(rows, keys, values, bias, scale=scale, softcap=softcap)
    return out.transpose(1, 2).reshape(1, count * size, query.shape[1], -1)[:, :tokens], None


def _products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    *,
    scale: float,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attend by two products; [blocks, key heads, size, group, width]."""
    count, heads, size, group, width = query.shape
    columns = key.shape[2]
    flat = (count * heads, size * group)  # a key head's queries, all of a group, in one product
    rows = (query * scale).reshape(*flat, width)
    scores = torch.bmm(rows, key.transpose(2, 3).reshape(count * heads, width, columns))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores.view(count, heads, size, group, columns).add_(bias[:, None, :, None])
    torch.softmax(scores, -1, out=scores)
    return torch.bmm(scores, value.reshape(count * heads, columns, -1)).view(count, heads, size, group, -1)


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    *,
    scale: float,
) -> torch.Tensor:
    """Attend by PyTorch's fused kernel; shapes as `_products`."""
    count, heads, size, group, width = query.shape
    rows = query.transpose(2, 3).reshape(count, heads * group, size, width)
    key, value = (x.repeat_interleave(group, 1) for x in (key, value))
    out = scaled_dot_product_attention(rows, key, value, attn_mask=bias[:, None], scale=scale)
    return out.view(count, heads, group, size, -1).transpose(2, 3)


def _larger(states: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return room for half as many tokens again."""
    return states.new_empty((tokens + tokens // 2, *states.shape[1:]))
