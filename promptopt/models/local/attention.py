"""Tree attention: every token attends to its ancestors in the trie, block by block.

`attend` has the signature that transformers calls; `Pass` tells it what the tokens of a pass attend to. Knows nothing of
tries or text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

NAME = "promptopt_tree"


Layers: TypeAlias = dict[int, tuple[torch.Tensor, torch.Tensor]]  # keys and values, each [key heads, tokens, width]


class States:
    """Keys and values (the KV cache) that later tokens attend to, layer by layer: [key heads, tokens, width] each."""

    def __init__(self) -> None:
        self.length = 0
        self._layers: Layers = {}

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's states of a pass after the kept ones; return both together."""
        stop = self.length + keys.shape[1]
        stored = self._layers.get(layer)
        if stored is None or stored[0].shape[1] < stop:
            larger = (_allocate(keys, stop), _allocate(values, stop))
            for new, old in zip(larger, stored or (), strict=False):
                new[:, : self.length] = old[:, : self.length]
            stored = self._layers[layer] = larger
        stored[0][:, self.length : stop] = keys
        stored[1][:, self.length : stop] = values
        return stored[0][:, :stop], stored[1][:, :stop]

    def tail(self, tokens: int) -> Layers:
        """Return a copy of the states of the last pass, which had `tokens` tokens."""
        last_pass = slice(self.length, self.length + tokens)
        return {
            layer: (keys[:, last_pass].clone(), values[:, last_pass].clone())
            for layer, (keys, values) in self._layers.items()
        }

    @torch.inference_mode()
    def extend(self, others: States) -> None:
        """Append all states of `others`, which must not be used afterwards."""
        if not self.length:
            self.length, self._layers = others.length, others._layers
            return
        for layer, (keys, values) in others._layers.items():
            self.append(layer, keys[:, : others.length], values[:, : others.length])
        self.length += others.length

    @torch.inference_mode()
    def keep(self, positions: torch.Tensor) -> None:
        """Keep the states at these positions (including the last pass's), in this order; drop the rest."""
        for stored in self._layers.values():
            for states in stored:
                states[:, : len(positions)] = states[:, positions]
        self.length = len(positions)


@dataclass
class Pass:
    """What `attend` needs to know of one pass.

    Args:
        states: of the tokens before the pass; those of the pass are appended.
        keys: [blocks * columns], positions in the states.
        visible: [blocks, size, columns], whether a token attends to a column.
        depths: [blocks, size], positions of the tokens in their sequences, for sliding windows.
        column_depths: [blocks, columns].
    """

    states: States
    keys: torch.Tensor
    visible: torch.Tensor
    depths: torch.Tensor
    column_depths: torch.Tensor
    _biases: dict[int | None, torch.Tensor] = field(default_factory=dict, init=False)

    def bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Return the additive attention mask, [blocks, size, columns]: 0 where a column is visible, else -inf."""
        if window not in self._biases:
            visible = self.visible
            if window is not None:
                visible = visible & (self.depths[:, :, None] - self.column_depths[:, None] < window)
            self._biases[window] = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
                ~visible, -torch.inf
            )
        return self._biases[window]


def attend(
    module: Any,
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
    **others: Any,  # noqa: ARG001  such as dropout, which is off at inference
) -> tuple[torch.Tensor, None]:
    """Attend within one pass; query [1, heads, tokens, width], key and value [1, key heads, tokens, width].

    Returns:
        [1, tokens, heads, width], and no weights.

    Raises:
        NotImplementedError: the network uses attention sinks, which are not supported.
    """
    if s_aux is not None:
        raise NotImplementedError("attention sinks")
    stored = promptopt_pass.states.append(module.layer_idx, key[0], value[0])
    count, size, columns = promptopt_pass.visible.shape
    tokens, heads = query.shape[2], key.shape[1]
    keys, values = (x.index_select(1, promptopt_pass.keys).view(heads, count, columns, -1) for x in stored)
    rows = pad(query[0], (0, 0, 0, count * size - tokens)).view(heads, -1, count, size, query.shape[3])
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    bias = promptopt_pass.bias(sliding_window, query.dtype)
    # On the CPU, in bfloat16, explicit matrix products and a softmax take 0.88 (1 demonstration per class) and 0.74 (4) of
    # the time of SDPA on the same blocks. On CUDA, SDPA never stores the scores.
    if query.is_cuda and softcap is None:
        out = _sdpa(rows, keys, values, bias, scale=scale)
    else:
        out = _products(rows, keys, values, bias, scale=scale, softcap=softcap)
    out = out.permute(2, 3, 0, 1, 4).reshape(1, count * size, query.shape[1], -1)
    return out[:, :tokens], None


def _products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    *,
    scale: float,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attend by two batched matrix products.

    Args:
        query: [key heads, group, blocks, size, width].
        key: [key heads, blocks, columns, width].
        value: same shape as `key`.
        bias: [blocks, size, columns].
        scale: of the scores.
        softcap: bound on their absolute values.

    Returns:
        Same shape as `query`.
    """
    heads, group, count, size, width = query.shape
    columns = key.shape[2]
    rows = query.transpose(1, 2).reshape(heads * count, group * size, width)  # one product per key head
    flat_key = key.reshape(heads * count, columns, width).transpose(1, 2)
    expanded_bias = bias[None, :, None].expand(heads, count, group, size, columns)
    if softcap is None:
        # Cloned because a reshape may be a view of the mask that all heads share.
        scores = expanded_bias.clone(memory_format=torch.contiguous_format).view(heads * count, group * size, columns)
        torch.baddbmm(scores, rows, flat_key, alpha=scale, out=scores)
    else:
        scores = torch.tanh(torch.bmm(rows, flat_key) * (scale / softcap)) * softcap
        scores.view(expanded_bias.shape).add_(expanded_bias)
    torch.softmax(scores, -1, out=scores)
    out = torch.bmm(scores, value.reshape(heads * count, columns, -1))
    return out.view(heads, count, group, size, -1).transpose(1, 2)


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Attend by PyTorch's fused kernel; same shapes as `_products`."""
    heads, group, count = query.shape[:3]
    rows = query.flatten(0, 1).transpose(0, 1)  # [blocks, heads, size, width]
    key, value = (x.repeat_interleave(group, 0).transpose(0, 1) for x in (key, value))
    out = scaled_dot_product_attention(rows, key, value, attn_mask=bias[:, None], scale=scale)
    return out.transpose(0, 1).reshape(heads, group, count, *out.shape[2:])


def _allocate(states: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return a buffer for 1.5 times `tokens` tokens."""
    return states.new_empty((len(states), tokens + tokens // 2, states.shape[2]))
