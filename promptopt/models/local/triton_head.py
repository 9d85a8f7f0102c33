"""The normaliser of the output head in one Triton kernel: the logits never leave a GPU's registers.

A program takes a block of rows and a share of the vocabulary, walks over that share in tiles and keeps the running
maximum and the running sum of exponentials of each row; the shares are put together at the end. Knows nothing of
models. Imported only where Triton is.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

_ROWS, _TOKENS = 64, 128  # a tile of logits: 64 registers a thread in four warps
_STEP_BYTES = 128  # of each row that one step multiplies: 24 KB a step, so that a few steps are in flight
# Some four for each multiprocessor of the largest GPUs; with few rows the vocabulary is cut into more shares.
_PROGRAMS = 512
_LOWEST = tl.constexpr(-3.0e38)  # below every logit, and finite: infinity less infinity is no number


def log_sum_exp(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, scale: float, cap: float | None
) -> torch.Tensor:
    """Return the logarithm of the sum over the vocabulary of exp(logit), float32 [rows].

    Args:
        hidden: [rows, width].
        weight: [vocabulary, width].
        bias: [vocabulary].
        scale: factor of the logits.
        cap: what the logits' absolute values stay below.
    """
    (rows, width), vocabulary = hidden.shape, len(weight)
    hidden = hidden.to(torch.promote_types(hidden.dtype, weight.dtype)).contiguous()
    blocks, tiles = triton.cdiv(rows, _ROWS), triton.cdiv(vocabulary, _TOKENS)
    if not blocks:  # a launch of no programs is an error
        return hidden.new_empty(0, dtype=torch.float32)
    share, step = triton.cdiv(tiles * blocks, _PROGRAMS), _STEP_BYTES // hidden.element_size()
    parts = hidden.new_empty(triton.cdiv(tiles, share), rows, dtype=torch.float32)
    launch: Any = _write_parts[(blocks, len(parts))]  # its type wants constants that only the compiler makes
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


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def _write_parts(  # noqa: PLR0917 - a kernel takes pointers and numbers
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
    # The programs of a share are neighbours, and read its weights from memory once.
    start = tl.program_id(1) * share * tile_tokens
    highest = tl.full([tile_rows], _LOWEST, tl.float32)
    total = tl.zeros([tile_rows], tl.float32)
    for tile in range(share):
        token = start + tile * tile_tokens + tl.arange(0, tile_tokens)
        logits = tl.zeros([tile_rows, tile_tokens], tl.float32)
        for number in range(steps):
            column = number * step + tl.arange(0, step)
            left = tl.load(
                hidden + row.to(tl.int64)[:, None] * width + column[None, :],
                mask=(row[:, None] < rows) & (column[None, :] < width),
                other=0.0,
            )
            right = tl.load(
                weight + token.to(tl.int64)[None, :] * width + column[:, None],  # can be past 2^31 numbers
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
        higher = tl.maximum(highest, tl.max(logits, 1))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        highest = higher
    tl.store(parts + tl.program_id(1) * rows + row, highest + tl.log(total), mask=row < rows)
