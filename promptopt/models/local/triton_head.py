"""The normalizer of the output head in one Triton kernel: logits stay in a GPU's registers.

Each program takes a block of rows and a share of the vocabulary, iterates over that share in tiles, and keeps the running
maximum and sum of exponentials of each row; the shares are combined at the end. Knows nothing of models. Imported only if
Triton is installed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

_ROWS, _TOKENS = 64, 128  # a tile of logits: 64 registers per thread in four warps
_STEP_BYTES = 128  # of each row per step: 24 KB per step, so that a few steps are in flight
# About four per multiprocessor of the largest GPUs; with few rows the vocabulary is split into more shares.
_PROGRAMS = 512
_LOWEST = tl.constexpr(-3.0e38)  # below every logit but finite: infinity minus infinity is NaN


def log_sum_exp(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, scale: float, cap: float | None
) -> torch.Tensor:
    """Return the logarithm of the sum over the vocabulary of exp(logit), float32 [rows].

    Args:
        hidden: [rows, width].
        weight: [vocabulary, width].
        bias: [vocabulary].
        scale: factor of the logits.
        cap: bound on the logits' absolute values.
    """
    (rows, width), vocabulary = hidden.shape, len(weight)
    hidden = hidden.to(torch.promote_types(hidden.dtype, weight.dtype)).contiguous()
    blocks, tiles = triton.cdiv(rows, _ROWS), triton.cdiv(vocabulary, _TOKENS)
    if not blocks:  # launching no programs is an error
        return hidden.new_empty(0, dtype=torch.float32)
    share, step = triton.cdiv(tiles * blocks, _PROGRAMS), _STEP_BYTES // hidden.element_size()
    parts = hidden.new_empty(triton.cdiv(tiles, share), rows, dtype=torch.float32)
    launch: Any = _write_parts[(blocks, len(parts))]  # its type requires constants that only the compiler makes
    with torch.cuda.device_of(hidden):  # type: ignore[no-untyped-call]  # kernels run on the current GPU
        launch(
            hidden,
            weight.contiguous(),
            weight if bias is None else bias,
            parts,
            rows,
            vocabulary,
            width,
            share,
            triton.cdiv(width, step),
            scale,
            1.0 if cap is None else cap,
            has_bias=bias is not None,
            has_cap=cap is not None,
            tile_rows=_ROWS,
            tile_tokens=_TOKENS,
            step=step,
        )
    return parts.logsumexp(0)


@triton.jit  # type: ignore[untyped-decorator]  # Triton is untyped
def _write_parts(  # noqa: PLR0917 - kernel signature
    hidden: tl.tensor,  # [rows, width]
    weight: tl.tensor,  # [vocabulary, width]
    bias: tl.tensor,  # [vocabulary]
    parts: tl.tensor,  # [shares, rows]
    rows: int,
    vocabulary: int,
    width: int,
    share: int,  # tiles
    steps: int,  # over the width
    scale: float,
    cap: float,
    has_bias: tl.constexpr,
    has_cap: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_tokens: tl.constexpr,
    step: tl.constexpr,
) -> None:
    """Write the log-sum-exp of one share of the vocabulary for one block of rows."""
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    # Programs of the same share are adjacent, so that its weights are read from memory once.
    start = tl.program_id(1) * share * tile_tokens
    highest = tl.full([tile_rows], _LOWEST, tl.float32)
    total = tl.zeros([tile_rows], tl.float32)
    for tile in range(share):
        token = start + tile * tile_tokens + tl.arange(0, tile_tokens)
        logits = tl.zeros([tile_rows, tile_tokens], tl.float32)
        for step_index in range(steps):
            column = step_index * step + tl.arange(0, step)
            left = tl.load(
                hidden + row.to(tl.int64)[:, None] * width + column[None, :],
                mask=(row[:, None] < rows) & (column[None, :] < width),
                other=0.0,
            )
            right = tl.load(
                weight + token.to(tl.int64)[None, :] * width + column[:, None],  # may exceed 2^31 elements
                mask=(token[None, :] < vocabulary) & (column[:, None] < width),
                other=0.0,
            )
            logits = tl.dot(left, right.to(left.dtype), logits, input_precision="ieee")
        if has_bias:
            logits += tl.load(bias + token, mask=token < vocabulary, other=0.0).to(tl.float32)[None, :]
        logits *= scale
        if has_cap:
            logits = cap * (2 * tl.sigmoid(2 * logits / cap) - 1)  # cap * tanh(logits / cap); its exponential may be 0
        logits = tl.where(token[None, :] < vocabulary, logits, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(logits, 1))
        total = total * tl.exp(highest - new_highest) + tl.sum(tl.exp(logits - new_highest[:, None]), 1)
        highest = new_highest
    tl.store(parts + tl.program_id(1) * rows + row, highest + tl.log(total), mask=row < rows)
