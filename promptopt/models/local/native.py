"""Decoder-only networks of a few families, built from a folder of weights without transformers, whose import takes seconds.

Computes what transformers' network computes after `kernels.speed_up`, to the bit; `converted` checks that once for each
model. For CPUs. Knows nothing of tries or text.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch.nn import functional

from promptopt.models.local import kernels
from promptopt.models.local.attention import attend
from promptopt.models.local.converted import FAMILIES
from promptopt.models.local.head import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from promptopt.models.local.attention import Pass

    _Function = Callable[[torch.Tensor], torch.Tensor]
    MakesLinear = Callable[[torch.Tensor, torch.Tensor | None], _Function]


def supports(config: Mapping[str, Any]) -> bool:
    """Whether a network with this config can be built here."""
    settings = FAMILIES.get(config.get("model_type", ""))
    if settings is None or any(config.get(name) not in allowed for name, allowed in settings.items()):
        return False
    return all(rope["rope_type"] == "default" for rope in _ropes(config).values())


def load(
    folder: Path, weights: Path, dtype: torch.dtype, linear: MakesLinear | None = None
) -> tuple[NativeNetwork, Head]:
    """Load a network and its head from `config.json` and safetensors files, which are mapped into memory.

    Args:
        folder: of a converted model, with its config.
        weights: folder of the safetensors files.
        dtype: of the weights.
        linear: makes linear layers from weights [out, in] and biases; by default the fastest that keeps the dtype.

    Raises:
        OSError: the files cannot be read.
        SafetensorError: the files are damaged.
        KeyError: the weights have other names than transformers gives them.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(weights.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118  not a mapping
    network = NativeNetwork(config, tensors, linear or _linear(dtype))
    matrix = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return network, Head(matrix, cap=config.get("final_logit_softcapping"))


class NativeNetwork:
    """A decoder-only network of the Llama, Qwen 2 or Gemma 3 family.

    Args:
        config: as transformers writes it.
        tensors: weights by transformers' names.
        linear: makes linear layers.
    """

    device = torch.device("cpu")

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], linear: MakesLinear) -> None:
        self.heads = int(config["num_attention_heads"])
        self._embedding = tensors["model.embed_tokens.weight"]
        self.dtype = self._embedding.dtype
        gemma = config["model_type"] == "gemma3_text"
        self._scale = torch.tensor(config["hidden_size"] ** 0.5).to(self.dtype) if gemma else None
        parts = _Parts(config, tensors, linear)
        self._frequencies = {kind: _frequencies(config, rope) for kind, rope in _ropes(config).items()}
        self._layers = _layers(config, parts)
        # For one token, a product with weights as they are in the file takes 0.7 of the time of a packed one.
        both = linear is kernels.PackedLinear and _fit_twice(tensors)
        self._layers_of_one = _layers(config, _Parts(config, tensors, _plain_linear)) if both else self._layers
        self._norm = parts.norm("model.norm")

    def hidden(self, tokens: torch.Tensor, depths: torch.Tensor, own_pass: Pass, rows: torch.Tensor) -> torch.Tensor:
        """Run one pass.

        Args:
            tokens: int64 [tokens].
            depths: int64 [tokens], their positions in the sequence.
            own_pass: what they attend to.
            rows: int64 [rows], the tokens whose hidden states are returned.

        Returns:
            Hidden states after the last norm, [rows, hidden].
        """
        return self._run(self._layers, tokens, depths, own_pass, rows)

    def grown(self, tokens: torch.Tensor, depths: torch.Tensor, own_pass: Pass) -> torch.Tensor:
        """Run one decoding step; return the hidden states of all its tokens, those of `hidden` up to rounding."""
        return self._run(self._layers_of_one if len(tokens) == 1 else self._layers, tokens, depths, own_pass, None)

    def _run(
        self,
        layers: Sequence[_Layer],
        tokens: torch.Tensor,
        depths: torch.Tensor,
        own_pass: Pass,
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        x = functional.embedding(tokens, self._embedding)[None]
        if self._scale is not None:
            x = x * self._scale
        rotations = {kind: self._rotation(depths, frequencies) for kind, frequencies in self._frequencies.items()}
        for layer in layers[:-1]:
            x = layer(x, rotations, own_pass, None)
        return torch.as_tensor(self._norm(layers[-1](x, rotations, own_pass, rows))[0])

    def _rotation(self, depths: torch.Tensor, frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines, [1, tokens, width of a head] each."""
        angles = depths[None, :, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)


@dataclass(frozen=True)
class _Parts:
    """Makes the parts of a network from its weights."""

    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    make_linear: MakesLinear

    def linear(self, name: str) -> _Function:
        return self.make_linear(self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def norm(self, name: str) -> _Function:
        """RMS norm; Gemma stores its weights minus 1."""
        weight = self.tensors[f"{name}.weight"]
        if self.config["model_type"] == "gemma3_text":
            weight = (1 + weight.float()).to(weight.dtype)
        return kernels.Norm(weight, float(self.config["rms_norm_eps"]))

    def optional_norm(self, name: str) -> _Function:
        return self.norm(name) if f"{name}.weight" in self.tensors else _unchanged

    def feed_forward(self, name: str) -> _Function:
        names = [f"{name}.{part}_proj" for part in ("gate", "up", "down")]
        tanh = self.config["model_type"] == "gemma3_text"
        if self.make_linear is kernels.PackedLinear:
            packed = [kernels.PackedLinear(self.tensors[f"{part}.weight"], None) for part in names]
            return kernels.FusedMLP(*packed, activation=("gelu", "tanh") if tanh else ("swish", ""))
        gate, up, down = map(self.linear, names)
        activation: _Function = partial(functional.gelu, approximate="tanh") if tanh else functional.silu
        return lambda x: down(activation(gate(x)) * up(x))


@dataclass(frozen=True)
class _Attention:
    """The attention of one layer: its products, norms of queries and keys, and what `attend` needs to know."""

    query: _Function
    key: _Function
    value: _Function
    output: _Function
    query_norm: _Function
    key_norm: _Function
    layer_idx: int
    width: int
    scaling: float
    window: int | None
    kind: str

    def __call__(
        self, x: torch.Tensor, rotations: Mapping[str, Any], own_pass: Pass, rows: torch.Tensor | None
    ) -> torch.Tensor:
        query, key, value = (
            project(x).view(*x.shape[:2], -1, self.width).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        cos, sin = (part.unsqueeze(1) for part in rotations[self.kind])
        query, key = (_rotated(y, cos, sin) for y in (self.query_norm(query), self.key_norm(key)))
        out, _ = attend(
            self, query, key, value, None, promptopt_pass=own_pass, scaling=self.scaling, sliding_window=self.window
        )
        out = out.reshape(*x.shape[:2], -1).contiguous()
        return self.output(out if rows is None else out[:, rows])


@dataclass(frozen=True)
class _Layer:
    """Attention and feed-forward part, each between norms; without norms after them except in Gemma."""

    attention: _Attention
    feed_forward: _Function
    before_attention: _Function
    after_attention: _Function
    before_feed_forward: _Function
    after_feed_forward: _Function

    def __call__(
        self, x: torch.Tensor, rotations: Mapping[str, Any], own_pass: Pass, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """Return [1, tokens or rows, hidden]; all tokens if `rows` is None."""
        attended = self.attention(self.before_attention(x), rotations, own_pass, rows)
        x = (x if rows is None else x[:, rows]) + self.after_attention(attended)
        return x + self.after_feed_forward(self.feed_forward(self.before_feed_forward(x)))


def _layers(config: Mapping[str, Any], parts: _Parts) -> list[_Layer]:
    return [_layer(config, parts, number) for number in range(int(config["num_hidden_layers"]))]


def _layer(config: Mapping[str, Any], parts: _Parts, number: int) -> _Layer:
    name = f"model.layers.{number}"
    sandwiched = f"{name}.pre_feedforward_layernorm.weight" in parts.tensors
    after = f"{name}.post_attention_layernorm"
    kind = config["layer_types"][number] if config["model_type"] == "gemma3_text" else ""
    width = _head_width(config)
    attention = _Attention(
        query=parts.linear(f"{name}.self_attn.q_proj"),
        key=parts.linear(f"{name}.self_attn.k_proj"),
        value=parts.linear(f"{name}.self_attn.v_proj"),
        output=parts.linear(f"{name}.self_attn.o_proj"),
        query_norm=parts.optional_norm(f"{name}.self_attn.q_norm"),
        key_norm=parts.optional_norm(f"{name}.self_attn.k_norm"),
        layer_idx=number,
        width=width,
        scaling=config.get("query_pre_attn_scalar", width) ** -0.5,
        window=config["sliding_window"] if kind == "sliding_attention" else None,
        kind=kind,
    )
    return _Layer(
        attention,
        parts.feed_forward(f"{name}.mlp"),
        before_attention=parts.norm(f"{name}.input_layernorm"),
        after_attention=parts.norm(after) if sandwiched else _unchanged,
        before_feed_forward=parts.norm(f"{name}.pre_feedforward_layernorm" if sandwiched else after),
        after_feed_forward=parts.norm(f"{name}.post_feedforward_layernorm") if sandwiched else _unchanged,
    )


def _fit_twice(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether weights, packed and in the file, take no more than half of the memory; else the file's would be read again and again."""
    if sys.platform == "win32":
        return False
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * sum(tensor.nbytes for tensor in tensors.values()) <= memory


def _linear(dtype: torch.dtype) -> MakesLinear:
    return kernels.PackedLinear if kernels.packs(dtype) else _plain_linear


def _plain_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> _Function:
    return partial(functional.linear, weight=weight, bias=bias)


def _ropes(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of the rotary embedding by kind of layer; "" if all layers have the same."""
    parameters: Mapping[str, Any] = config["rope_parameters"]
    return parameters if config["model_type"] == "gemma3_text" else {"": parameters}


def _frequencies(config: Mapping[str, Any], rope: Mapping[str, Any]) -> torch.Tensor:
    width = _head_width(config)
    return torch.as_tensor(1.0 / (rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float) / width)))


def _head_width(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x
