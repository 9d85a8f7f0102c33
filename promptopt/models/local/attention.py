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


Layers: TypeAlias = dict[int, tuple[torch.Tensor, torch.Tensor]]  # keys and values, each [key heads, tokens, width]


class States:
    """Keys and values of tokens that later ones attend to, layer by layer: [key heads, tokens, width] each."""

    def __init__(self) -> None:
        self.length = 0
        self._layers: Layers = {}

    def put(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's states of a pass behind those that are kept; return both together."""
        stop = self.length + keys.shape[1]
        stored = self._layers.get(layer)
        if stored is None or stored[0].shape[1] < stop:
            larger = (_larger(keys, stop), _larger(values, stop))
            for new, old in zip(larger, stored or (), strict=False):
                new[:, : self.length] = old[:, : self.length]
            stored = self._layers[layer] = larger
        stored[0][:, self.length : stop] = keys
        stored[1][:, self.length : stop] = values
        return stored[0][:, :stop], stored[1][:, :stop]

    def tail(self, tokens: int) -> Layers:
        """Return a copy of the states of the last pass, which had so many tokens."""
        part = slice(self.length, self.length + tokens)
        return {
            layer: (keys[:, part].clone(), values[:, part].clone()) for layer, (keys, values) in self._layers.items()
        }

    @torch.inference_mode()
    def keep(self, places: torch.Tensor) -> None:
        """Keep these of the states, the last pass's included, in this order; drop the rest."""
        for stored in self._layers.values():
            for states in stored:
                states[:, : len(places)] = states[:, places]
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
    stored = promptopt_pass.states.put(layer, key[0], value[0])
    count, size, columns = promptopt_pass.visible.shape
    tokens, heads = query.shape[2], key.shape[1]
    keys, values = (x.index_select(1, promptopt_pass.keys).view(heads, count, columns, -1) for x in stored)
    rows = pad(query[0], (0, 0, 0, count * size - tokens)).view(heads, -1, count, size, query.shape[3])
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    bias = promptopt_pass.bias(sliding_window, query.dtype)
    # On the CPU, in bfloat16, two products and a softmax of our own bring whole passes to 0.88 (1 demonstration a class) and
    # 0.74 (4) of the time with SDPA on the same blocks. On CUDA SDPA never stores the scores.
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
    """Attend by two products.

    Args:
        query: [key heads, group, blocks, size, width].
        key: [key heads, blocks, columns, width].
        value: as `key`.
        bias: [blocks, size, columns].
        scale: of the scores.
        softcap: what their absolute values stay below.

    Returns:
        Shaped as `query`.
    """
    heads, group, count, size, width = query.shape
    columns = key.shape[2]
    rows = query.transpose(1, 2).reshape(heads * count, group * size, width)  # all of a key head's in one product
    flat_key = key.reshape(heads * count, columns, width).transpose(1, 2)
    spread = bias[None, :, None].expand(heads, count, group, size, columns)
    if softcap is None:
        # A clone, because a reshape alone may be a view of the mask that all heads share.
        scores = spread.clone(memory_format=torch.contiguous_format).view(heads * count, group * size, columns)
        torch.baddbmm(scores, rows, flat_key, alpha=scale, out=scores)
    else:
        scores = torch.tanh(torch.bmm(rows, flat_key) * (scale / softcap)) * softcap
        scores.view(spread.shape).add_(spread)
    torch.softmax(scores, -1, out=scores)
    out = torch.bmm(scores, value.reshape(heads * count, columns, -1))
    return out.view(heads, count, group, size, -1).transpose(1, 2)


def _sdpa(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Attend by PyTorch's fused kernel; shapes as `_products`."""
    heads, group, count = query.shape[:3]
    rows = query.flatten(0, 1).transpose(0, 1)  # [blocks, heads, size, width]
    key, value = (x.repeat_interleave(group, 0).transpose(0, 1) for x in (key, value))
    out = scaled_dot_product_attention(rows, key, value, attn_mask=bias[:, None], scale=scale)
    return out.transpose(0, 1).reshape(heads, group, count, *out.shape[2:])


def _larger(states: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return room for half as many tokens again."""
    return states.new_empty((len(states), tokens + tokens // 2, states.shape[2]))
