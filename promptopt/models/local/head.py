"""Log-probabilities of given tokens from hidden states, without materializing logits [rows, vocabulary].

log p(token) is the token's logit minus the log-sum-exp over the vocabulary (the normalizer). The logit needs one row of the
output matrix; the normalizer is accumulated chunk by chunk. Knows nothing of the layers below, of text or of sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from promptopt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The Triton kernel has been tested only in Triton's interpreter; chunked torch is the default until it is measured on a GPU.
USE_TRITON = False

# A block of logits on a CPU: [512, 1024], smaller for wide models. It stays in cache between product and sum, and each
# chunk of weights is converted to float32 once for all rows. On one core, 1,600 rows of width 576 with 49,152 tokens take
# 1.0 s in float32 and bfloat16, and 1.2 s in chunks of 8,192 tokens; log_softmax of whole rows takes 1.3 s in float32, and
# 0.6 s in bfloat16, which rounds logits to 8 bits.
_ROWS, _TOKENS = 512, 1024
# At most 4 MB of hidden states and 8 MB of weights are converted at a time; two blocks of logits take 2 MB each.
_HIDDEN_ELEMENTS, _WEIGHT_ELEMENTS = 2**20, 2**21
# Newer versions of torch can multiply narrow dtypes on a GPU with a float32 result.
_FLOAT32_PRODUCTS = "dtype" in torch.ops.aten.mm.overloads()  # type: ignore[no-untyped-call]
_GPU_FACTOR = 4  # rows and tokens per block on a GPU, as multiples: smaller blocks are too little work per launch

# How the causal language models in transformers (5.23) scale the product of hidden states and output matrix, by the name
# in their text config. Cohere, Cohere 2, Compass and Falcon-H1 multiply by a number; the Granites divide by one,
# MiniCPM 3 and Inkling divide the hidden states ...
_POWERS = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1, "logits_mup_width_multiplier": -1}
# ... but HyperCLOVA X multiplies where Granite divides, and MPT ignores its setting.
_POWERS_OF = {("hyperclovax", "logits_scaling"): 1, ("mpt", "logit_scale"): 0}
# Gemma 2, 3, 3n and 4, VaultGemma, NanoChat, Beam and Inkling 2; RecurrentGemma; xLSTM.
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True, eq=False)
class Head:
    """The output layer of a causal language model.

    Logits are cap * tanh(scale * (hidden @ weight.T + bias) / cap).

    Args:
        weight: [vocabulary, width].
        bias: [vocabulary].
        scale: factor of the logits.
        cap: bound on the logits' absolute values.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, network: Any) -> Head:
        """Return the head of a transformers model; it takes the last hidden states of the base model.

        Raises:
            InputError: the model has no output matrix.
        """
        matrix, config = network.get_output_embeddings(), network.config.get_text_config()
        if matrix is None:
            raise InputError(f"{type(network).__name__} has no output matrix: choose a causal language model")
        tokens = getattr(config, "unpadded_vocab_size", None)  # Inkling's matrix has padding rows
        bias = None if matrix.bias is None else matrix.bias.detach()[:tokens]
        caps = [getattr(config, name, None) for name in _CAPS]
        return cls(matrix.weight.detach()[:tokens], bias, _scale(config), next(filter(None, caps), None))

    def logprobs(self, hidden: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return natural log p(tokens[i] | hidden[rows[i]]), normalized over the whole vocabulary, float32 [queries].

        Args:
            hidden: [positions, width].
            rows: int64 [queries].
            tokens: int64 [queries].
        """
        distinct_rows, row_index = torch.unique(rows, return_inverse=True)
        normalizers = log_sum_exp(hidden[distinct_rows], self.weight, self.bias, scale=self.scale, cap=self.cap)
        # Clamped because different summation orders could give a value just above 0.
        return (self._logits_of(hidden, rows, tokens) - normalizers[row_index]).clamp_(max=0)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of all tokens after `hidden` [rows, width], float32 [rows, vocabulary]."""
        out = hidden.new_empty(len(hidden), len(self.weight), dtype=torch.float32)
        columns = torch.split(out, _block(hidden)[1], dim=1)
        for column_block, (weight, bias) in zip(columns, _chunks(hidden, self.weight, self.bias), strict=True):
            column_block.copy_(_scale_and_cap(_product(hidden, weight), bias, self.scale, self.cap))
        return out

    def _logits_of(self, hidden: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of single tokens, [queries]."""
        size = max(1, _HIDDEN_ELEMENTS // hidden.shape[1])
        products = [
            (hidden[row].float() * self.weight[token].float()).sum(-1)
            for row, token in zip(torch.split(rows, size), torch.split(tokens, size), strict=True)
        ]
        return _scale_and_cap(
            torch.cat(products), None if self.bias is None else self.bias[tokens], self.scale, self.cap
        )


@dataclass(frozen=True, eq=False)
class DecodingHead:
    """A head for the few rows of a decoding step.

    The usual chunks of logits are slow for few rows: for 8 rows of width 896 and 151,936 tokens they take twice as long.

    Args:
        head: the head.
        product: hidden @ head.weight.T, float32, of hidden states [rows, width].
    """

    head: Head
    product: Callable[[torch.Tensor], torch.Tensor]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of all tokens after `hidden` [rows, width], float32 [rows, vocabulary]."""
        head = self.head
        if len(hidden) == 1 and head.weight.dtype == torch.float32:  # a matrix times a vector is faster unpacked
            return head.logits(hidden)
        return _scale_and_cap(self.product(hidden.float()), head.bias, head.scale, head.cap)


def log_sum_exp(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: float = 1.0,
    cap: float | None = None,
    use_triton: bool = USE_TRITON,
) -> torch.Tensor:
    """Return the logarithm of the sum over the vocabulary of exp(logit), float32 [rows].

    Products are accumulated in float32 whatever the dtype of the weights. At most about 16 MB of logits and converted weights
    are in memory (100 MB on a GPU).

    Args:
        hidden: [rows, width].
        weight: [vocabulary, width].
        bias: [vocabulary].
        scale: factor of the logits.
        cap: bound on the logits' absolute values.
        use_triton: on a GPU with Triton installed, use the kernel that keeps all logits in registers.
    """
    if use_triton and hidden.is_cuda and find_spec("triton"):
        from promptopt.models.local import triton_head  # noqa: PLC0415 - optional dependency

        return triton_head.log_sum_exp(hidden, weight, bias, scale=scale, cap=cap)
    blocks = torch.split(hidden, _block(hidden)[0])
    parts = [
        torch.cat([_scale_and_cap(_product(block, chunk), part, scale, cap).logsumexp(-1) for block in blocks])
        for chunk, part in _chunks(hidden, weight, bias)
    ]
    return torch.stack(parts).logsumexp(0)


def _chunks(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield the output matrix and its bias in chunks of tokens, in the dtype that `_product` expects."""
    _, size = _block(hidden)
    as_is = hidden.is_cuda and hidden.dtype == weight.dtype and _FLOAT32_PRODUCTS
    biases = [None] * -(-len(weight) // size) if bias is None else torch.split(bias, size)
    for chunk, part in zip(torch.split(weight, size), biases, strict=True):
        yield chunk if as_is else chunk.float(), part


def _product(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return hidden [rows, width] @ weight.T [width, tokens], float32."""
    if weight.dtype == torch.float32:
        return hidden.float() @ weight.T
    return torch.mm(hidden, weight.T, out_dtype=torch.float32)


def _scale_and_cap(products: torch.Tensor, bias: torch.Tensor | None, scale: float, cap: float | None) -> torch.Tensor:
    """Turn products [..., tokens] into logits, in place."""
    if bias is not None:
        products += bias
    if scale != 1.0:
        products *= scale
    return products if cap is None else products.div_(cap).tanh_().mul_(cap)


def _block(hidden: torch.Tensor) -> tuple[int, int]:
    """Return the number of rows and tokens in a block of logits."""
    width, factor = hidden.shape[1], _GPU_FACTOR if hidden.is_cuda else 1
    rows, tokens = min(_ROWS, _HIDDEN_ELEMENTS // width), min(_TOKENS, _WEIGHT_ELEMENTS // width)
    return factor * max(1, rows), factor * max(1, tokens)


def _scale(config: Any) -> float:
    """Return the factor by which logits are scaled."""
    scale = 1.0
    for name, default_power in _POWERS.items():
        power, number = _POWERS_OF.get((config.model_type, name), default_power), getattr(config, name, None)
        if power and number is not None:
            scale *= number**power
    return scale
