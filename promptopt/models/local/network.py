"""Adapts transformers' networks to the engine: their attention becomes the engine's tree attention.

Knows nothing of tries or text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from promptopt.models.local import attention, kernels

if TYPE_CHECKING:
    from promptopt.models.local.attention import Pass


class TransformersNetwork:
    """A causal language model of transformers as a network of the engine.

    Args:
        network: changed in place.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self.device: torch.device = network.device
        self.heads: int = network.config.get_text_config().num_attention_heads
        self._original_attention: str = network.config._attn_implementation  # noqa: SLF001  transformers has no public name
        ALL_ATTENTION_FUNCTIONS.register(attention.NAME, attention.attend)
        network.set_attn_implementation(attention.NAME)
        self._last_layer_parts = kernels.restrict_last_layer(network.base_model)

    def speed_up(self) -> None:
        """Replace parts of the network by faster ones, permanently."""
        if self.device.type == "cpu":
            kernels.speed_up(self._network)

    def release(self) -> None:
        """Restore the network's own attention."""
        self._network.set_attn_implementation(self._original_attention)
        for part in self._last_layer_parts:
            part.rows = None

    def hidden(self, tokens: torch.Tensor, depths: torch.Tensor, own_pass: Pass, rows: torch.Tensor) -> torch.Tensor:
        """Run one pass; see `NativeNetwork`."""
        for part in self._last_layer_parts:
            part.rows = rows
        out = self._network.base_model(
            input_ids=tokens[None], position_ids=depths[None], use_cache=False, promptopt_pass=own_pass
        )
        return torch.as_tensor(out.last_hidden_state[0, rows])

    def grown(self, tokens: torch.Tensor, depths: torch.Tensor, own_pass: Pass) -> torch.Tensor:
        """Run one decoding step; see `NativeNetwork`."""
        return self.hidden(tokens, depths, own_pass, torch.arange(len(tokens), device=tokens.device))
