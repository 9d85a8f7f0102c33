"""Faster CPU layers with oneDNN's packed products; results are the same up to rounding.

Linear layers store their weights in the order in which the product reads them (on two cores with AVX-512, 512 rows of
SmolLM2's layers: 228 instead of 200 GFLOP/s in float32, 443 instead of 402 in bfloat16). Gated feed-forward layers fuse
activation and multiplication into the products, norms are one call, and the last layer computes only the tokens whose output
is used. A layer is replaced only if its replacement gives the same results. Knows nothing of tries.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

_ROWS = 512  # batch size that packing optimizes for; any other works too

# Operators that torch.compile emits for the CPU; present in every torch build with oneDNN.
_linear = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
_pack = torch.ops.mkldnn._reorder_linear_weight  # noqa: SLF001


def speed_up(network: nn.Module) -> None:
    """Replace all supported layers in place, except the output matrix."""
    output: Any = network
    packable = packs(output.dtype)
    if packable:
        _replace(network, _fused_mlp)
    _replace(network, _norm)
    if packable:
        _replace(network, lambda module: _packed(module) if module is not output.get_output_embeddings() else None)


def packs(dtype: torch.dtype) -> bool:
    """Whether this CPU supports packed weights of a dtype; bfloat16 needs AVX-512 or AVX-NE-CONVERT."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        _pack(torch.zeros(16, 16, dtype=dtype), _ROWS)
    except RuntimeError:
        return False
    return True


def decoding_linear(weight: torch.Tensor) -> PackedLinear | HalfLinear | None:
    """Return the fastest product of few rows with an output matrix [out, in], in float32; None for the usual product.

    Weights in bfloat16 are kept in float16, which holds them exactly down to 6e-5 in absolute value, and smaller ones within 3e-8.
    The usual product converts them to float32 at every step.
    """
    if weight.device.type != "cpu":
        return None
    if weight.dtype == torch.float32:
        return PackedLinear(weight, None) if packs(torch.float32) else None
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return None
    try:
        return HalfLinear(weight, None)
    except InputError:  # torch has no such product for this processor
        return None


def restrict_last_layer(body: nn.Module) -> list[SelectedRows]:
    """Make the last layer compute only selected tokens; return the modules whose `rows` select them."""
    layers = dict(body.named_children()).get("layers")
    if not isinstance(layers, nn.ModuleList):
        return []
    restricted = []
    for owner, name in ((layers[-1], "mlp"), (dict(layers[-1].named_children()).get("self_attn"), "o_proj")):
        inner = dict(owner.named_children()).get(name) if owner is not None else None
        if owner is not None and inner is not None:
            restricted.append(SelectedRows(inner))
            setattr(owner, name, restricted[-1])
    return restricted


class PackedLinear(nn.Module):
    """A linear layer with packed weights.

    Args:
        weight: [out, in].
        bias: [out].
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._weight = _pack(weight, _ROWS)
        self._bias = bias

    def forward(self, x: torch.Tensor, activation: tuple[str, str] = ("none", "")) -> torch.Tensor:
        """Return activation(x @ weight + bias), [..., out]."""
        return torch.as_tensor(_linear(x, self._weight, self._bias, activation[0], [], activation[1]))

    def times(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return (x @ weight + bias) * other, [..., out]."""
        return torch.as_tensor(_linear.binary(x, other, self._weight, self._bias, "mul"))


class HalfLinear(nn.Module):
    """A linear layer with weights in float16 and arithmetic in float32.

    It reads half the memory. One core without AVX-512, layers of 1536 x 8960, in weights per second: 3.2 G instead of 1.6 G for
    one row, 1.5 G instead of 1.1 G for 8, the same for 64. Packing takes four times as long.

    Args:
        weight: [out, in]; rounded to float16.
        bias: [out], float32.

    Raises:
        InputError: torch has no such product for this processor.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        try:
            self._packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), bias)
        except (RuntimeError, AttributeError) as error:
            raise InputError(f"w16a32 is not supported here, use float32: {error}") from error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weight + bias, [..., out]."""
        return torch.as_tensor(torch.ops.quantized.linear_dynamic_fp16(x, self._packed))


class FusedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)), with the element-wise steps fused into the products."""

    def __init__(
        self, gate: PackedLinear, up: PackedLinear, down: PackedLinear, *, activation: tuple[str, str]
    ) -> None:
        super().__init__()
        self._gate, self._up, self._down, self._activation = gate, up, down, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, [..., hidden]."""
        out: torch.Tensor = self._down(self._up.times(x, self._gate(x, self._activation)))
        return out


class Norm(nn.Module):
    """RMS norm in one call."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        super().__init__()
        self._weight, self._eps = weight, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x divided by its root mean square, times the weights."""
        return functional.rms_norm(x, self._weight.shape, self._weight, self._eps)


class SelectedRows(nn.Module):
    """A module of the last layer that runs only for selected tokens; the outputs of the others are zero and unused."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.rows: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return inner(x), [1, tokens, out], at the selected rows."""
        if self.rows is None:
            return torch.as_tensor(self.inner(x))
        selected: torch.Tensor = self.inner(x[:, self.rows])
        return selected.new_zeros((1, x.shape[1], selected.shape[2])).index_copy_(1, self.rows, selected)


def _replace(network: nn.Module, make_replacement: Callable[[nn.Module], nn.Module | None]) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            replacement = make_replacement(child)
            if replacement is not None:
                setattr(module, name, replacement)


def _packed(module: nn.Module) -> PackedLinear | None:
    return PackedLinear(module.weight.data, module.bias) if type(module) is nn.Linear else None


def _fused_mlp(module: nn.Module) -> FusedMLP | None:
    children = dict(module.named_children())
    linear = {name for name, child in children.items() if type(child) is nn.Linear}
    if linear != {"gate_proj", "up_proj", "down_proj"} or set(children) - linear != {"act_fn"}:
        return None
    known: dict[tuple[str, str], Callable[[torch.Tensor], torch.Tensor]] = {
        ("swish", ""): functional.silu,
        ("gelu", "none"): functional.gelu,
        ("gelu", "tanh"): lambda x: functional.gelu(x, approximate="tanh"),
    }
    x = torch.linspace(-5, 5, 101)
    for name, activation in known.items():
        if torch.allclose(children["act_fn"](x), activation(x), atol=1e-6):
            layers: list[Any] = [children[f"{part}_proj"] for part in ("gate", "up", "down")]
            packed = [PackedLinear(layer.weight.data, layer.bias) for layer in layers]
            fused = FusedMLP(*packed, activation=name)
            return fused if _equivalent(module, fused, children["gate_proj"]) else None
    return None


def _norm(module: nn.Module) -> Norm | None:
    parameters = dict(module.named_parameters())
    if not type(module).__name__.endswith("RMSNorm") or set(parameters) != {"weight"}:
        return None
    eps = float(vars(module).get("variance_epsilon", vars(module).get("eps", 0.0)))
    exact: Any = copy.deepcopy(module).float()  # in a narrow dtype w and 1 + w are equal for large w
    weight: torch.Tensor = exact.weight.data
    for scale in (weight, 1 + weight):  # Gemma's norms store their weights minus 1
        if _equivalent(exact, Norm(scale, eps), exact):
            return Norm(scale.to(parameters["weight"].dtype), eps)
    return None


def _equivalent(old: nn.Module, new: nn.Module, like: Any) -> bool:
    """Whether both give the same output for random input of the width of `like`."""
    weight: torch.Tensor = like.weight
    x = torch.randn(2, weight.shape[-1], generator=torch.Generator().manual_seed(0)).to(weight)
    expected, actual = old(x).float(), new(x).float()
    scale = expected.abs().max()
    return bool((expected - actual).abs().max() <= scale * (0.02 if weight.dtype != torch.float32 else 1e-5))
