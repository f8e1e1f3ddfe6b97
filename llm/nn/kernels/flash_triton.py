"""flash_triton: the tiles of flash_attention as three Triton kernels, for a GPU.

One program of the GPU owns a tile of queries (forward, dQ) or a tile of keys (dK and dV, for all query heads
that share them, so that nothing is added to from two sides). Importing this module needs triton.

Equations   (1)-(10) in docs/nn/kernels/flash_attention.md; comments below carry the same numbers.
Source      Dao 2023, FlashAttention-2, arXiv 2307.08691, sections 3.1-3.3; Tillet et al. 2019, Triton
Cost        train O(T^2 N H) time, memory O(T N H): two numbers a query besides inputs and output
Differs     from the paper: which keys a query sees is one number, the first of them, so that packed documents
            and windows cost no mask and their hidden tiles no time; tile sizes are fixed, not tuned
Shapes      B batch, N query heads, G key-value heads, R = N / G, T tokens, H d_head, V width of a value;
            a tile: C queries, K keys; P = H and W = V rounded up to a power of two
"""

# Kernels are Triton, not Python.
# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

import math
import os
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from llm.nn.kernels.flash_attention import first_visible, flash_attention

try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "llm.nn.kernels.flash_triton: triton is not installed; it comes with torch for CUDA. "
        "To test the kernel without a GPU: make test-triton"
    ) from None

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
STAGES = 2  # tiles loaded ahead of their use; three would not fit the fast memory of smaller GPUs
MAX_WIDTH = 256  # of a head: wider tiles do not fit the memory of a GPU's core


def flash_attention_triton(
    q_BNTH: Tensor,
    k_BGTH: Tensor,
    v_BGTV: Tensor,
    *,
    segments_BT: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """As `flash_attention`: output [B, N, T, V] and log-sum-exp [B, N, T], both with gradients; no bias.

    Raises:
        ValueError: float64, or heads wider than MAX_WIDTH.
    """
    (B, _, T, H), V = q_BNTH.shape, v_BGTV.shape[-1]
    if q_BNTH.dtype not in DTYPES or max(H, V) > MAX_WIDTH:
        raise ValueError(
            f"flash_triton: {q_BNTH.dtype} heads of width {max(H, V)}; it takes float32, bfloat16 and "
            f"float16 up to {MAX_WIDTH}; use LLM_ATTENTION=flash"
        )
    first_BT = first_visible(T, segments_BT, window, q_BNTH.device).expand(B, T).int().contiguous()
    scale = scale or 1 / math.sqrt(H)
    out: tuple[Tensor, Tensor] = FlashTriton.apply(q_BNTH, k_BGTH, v_BGTV, first_BT, scale)
    return out


def last_visible(first_BT: Tensor) -> Tensor:
    """The last query that sees each key, [B, T]: `first` never falls, so it can be searched."""
    index_BT = torch.arange(first_BT.shape[1], device=first_BT.device).expand_as(first_BT).contiguous()
    return torch.searchsorted(first_BT, index_BT.to(first_BT.dtype), right=True).int() - 1


def tile_of(H: int, V: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes: tensor cores want 16 at least; wide heads want small tiles."""
    P, W = (max(16, 1 << (width - 1).bit_length()) for width in (H, V))
    n_bytes = max(P, W) * dtype.itemsize
    size = 64 if n_bytes <= 256 else 32 if n_bytes <= 512 else 16
    return {"C": size, "K": size, "P": P, "W": W}


@cache
def agrees(device: torch.device, dtype: torch.dtype, H: int, V: int) -> bool:
    """Whether the kernels give the numbers of the tiled form on this device: tried once, on two documents.
    Draws no random numbers. A kernel that fails or disagrees is reported and not used."""
    numbers = torch.arange(130 * max(H, V), device=device).sin()
    q, k = (numbers[: 130 * H].roll(shift).view(1, 1, 130, H).to(dtype).requires_grad_() for shift in (0, 1))
    v = numbers[: 130 * V].view(1, 1, 130, V).to(dtype).requires_grad_()
    segments = (torch.arange(130, device=device) >= 47)[None].long() + 1
    try:
        with torch.enable_grad():
            found = flash_attention_triton(q, k, v, segments_BT=segments)
            wanted = flash_attention(q, k, v, segments_BT=segments)
            pairs = [(found[0].detach(), wanted[0].detach())]
            slopes = [torch.autograd.grad(out.sin().sum(), (q, k, v)) for out, _ in (found, wanted)]
        pairs += zip(*slopes, strict=True)
        worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    except Exception as error:  # whatever a compiler or a driver raises: there is another way to the result
        warnings.warn(f"flash_triton: does not run here, sdpa is used instead ({error})", stacklevel=2)
        return False
    good = worst < (1e-3 if dtype == torch.float32 else 5e-2)
    if not good:
        warnings.warn(f"flash_triton: off by {worst:.1e} here, sdpa is used instead", stacklevel=2)
    return good


class FlashTriton(torch.autograd.Function):
    """Launches the kernels."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, first: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        (B, N, T, H), G, V = q.shape, k.shape[1], v.shape[-1]
        out, lse = q.new_empty(B, N, T, V), q.new_empty(B, N, T, dtype=torch.float32)
        tile = tile_of(H, V, q.dtype)
        grid = (triton.cdiv(T, tile["C"]), B * N)
        forward_kernel[grid](q, k, v, first, out, lse, scale, T, N, N // G, H, V, **tile, num_stages=STAGES)
        ctx.save_for_backward(q, k, v, first, out, lse)
        ctx.scale = scale
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, first, out, lse = ctx.saved_tensors
        d_out = grads[0].contiguous()
        (B, N, T, H), G, V = q.shape, k.shape[1], v.shape[-1]
        delta = (d_out.float() * out).sum(-1).sub_(grads[1])  # (8)
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        tile, last = tile_of(H, V, q.dtype), last_visible(first)
        shared = (q, k, v, d_out, lse, delta, first)
        sizes = (ctx.scale, T, N, N // G, H, V)
        query_kernel[(triton.cdiv(T, tile["C"]), B * N)](*shared, d_q, *sizes, **tile, num_stages=STAGES)
        key_kernel[(triton.cdiv(T, tile["K"]), B * G)](
            *shared, last, d_k, d_v, *sizes, **tile, num_stages=STAGES
        )
        return d_q, d_k, d_v, None, None


@triton.jit
def tile_at(base, rows, T, columns, width):
    """Rows [n] and columns [m] of a matrix [T, width]; what lies outside is 0."""
    inside = (rows[:, None] < T) & (columns[None, :] < width)
    return tl.load(base + rows[:, None] * width + columns[None, :], mask=inside, other=0.0)


@triton.jit
def store_at(base, rows, T, columns, width, values):
    """Write back what `tile_at` reads."""
    inside = (rows[:, None] < T) & (columns[None, :] < width)
    tl.store(base + rows[:, None] * width + columns[None, :], values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def product(a, b):
    """a b, added up in float32, without the short mantissa of TF32. The interpreter would multiply the bit
    patterns of bf16 numbers; in float32 their products are the same."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def scores_of(q, k, i, j, first, scale):
    """Scaled scores [C, K] in float32, -inf where a key is hidden (3)."""
    s = product(q, tl.trans(k)) * scale
    return tl.where((j[None, :] <= i[:, None]) & (j[None, :] >= first[:, None]), s, float("-inf"))


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, first_ptr, out_ptr, lse_ptr, scale, T, N, R, H, V,
    C: tl.constexpr, K: tl.constexpr, P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp of one tile of queries of one head."""
    head = tl.program_id(1).to(tl.int64)  # of all heads of all rows
    shared = head // N * (N // R) + head % N // R  # the key-value head it reads
    i = tl.program_id(0) * C + tl.arange(0, C)
    h, w = tl.arange(0, P), tl.arange(0, W)
    q = tile_at(q_ptr + head * T * H, i, T, h, H)
    first = tl.load(first_ptr + head // N * T + i, mask=i < T, other=T)  # beyond the end: sees nothing
    m = tl.full([C], float("-inf"), tl.float32)
    l = tl.zeros([C], tl.float32)
    acc = tl.zeros([C, W], tl.float32)
    low = tl.min(first, 0) // K * K  # (2)
    for j0 in range(low, tl.minimum(T, (tl.program_id(0) + 1) * C), K):
        j = j0 + tl.arange(0, K)
        s = scores_of(q, tile_at(k_ptr + shared * T * H, j, T, h, H), i, j, first, scale)
        largest = tl.maximum(m, tl.max(s, 1))  # (4)
        base = tl.where(largest == float("-inf"), 0.0, largest)
        p, shrink = tl.exp(s - base[:, None]), tl.exp(m - base)
        l = l * shrink + tl.sum(p, 1)  # (5)
        v = tile_at(v_ptr + shared * T * V, j, T, w, V)
        acc = acc * shrink[:, None] + product(p.to(v.dtype), v)  # (6)
        m = largest
    seen = tl.where(l == 0, 1.0, l)
    store_at(out_ptr + head * T * V, i, T, w, V, acc / seen[:, None])
    tl.store(lse_ptr + head * T + i, m + tl.log(seen), mask=i < T)  # (7)


@triton.jit
def slopes_of(q, k, v, d_out, i, j, first, lse, delta, scale):
    """Probabilities P (9) and gradients of the scores dS (10) of one tile, [C, K] each."""
    s = scores_of(q, k, i, j, first, scale)
    p = tl.where(s == float("-inf"), 0.0, tl.exp(s - lse[:, None]))
    d_p = product(d_out, tl.trans(v))
    return p, p * (d_p - delta[:, None])


@triton.jit
def query_kernel(
    q_ptr, k_ptr, v_ptr, d_out_ptr, lse_ptr, delta_ptr, first_ptr, d_q_ptr, scale, T, N, R, H, V,
    C: tl.constexpr, K: tl.constexpr, P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """dQ of one tile of queries of one head."""
    head = tl.program_id(1).to(tl.int64)
    shared = head // N * (N // R) + head % N // R
    i = tl.program_id(0) * C + tl.arange(0, C)
    h, w = tl.arange(0, P), tl.arange(0, W)
    q, d_out = tile_at(q_ptr + head * T * H, i, T, h, H), tile_at(d_out_ptr + head * T * V, i, T, w, V)
    first = tl.load(first_ptr + head // N * T + i, mask=i < T, other=T)
    lse = tl.load(lse_ptr + head * T + i, mask=i < T, other=0.0)
    delta = tl.load(delta_ptr + head * T + i, mask=i < T, other=0.0)
    d_q = tl.zeros([C, P], tl.float32)
    low = tl.min(first, 0) // K * K
    for j0 in range(low, tl.minimum(T, (tl.program_id(0) + 1) * C), K):
        j = j0 + tl.arange(0, K)
        k = tile_at(k_ptr + shared * T * H, j, T, h, H)
        v = tile_at(v_ptr + shared * T * V, j, T, w, V)
        _, d_s = slopes_of(q, k, v, d_out, i, j, first, lse, delta, scale)
        d_q += product(d_s.to(k.dtype), k)
    store_at(d_q_ptr + head * T * H, i, T, h, H, d_q * scale)


@triton.jit
def key_kernel(
    q_ptr, k_ptr, v_ptr, d_out_ptr, lse_ptr, delta_ptr, first_ptr, last_ptr, d_k_ptr, d_v_ptr,
    scale, T, N, R, H, V,
    C: tl.constexpr, K: tl.constexpr, P: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """dK and dV of one tile of keys, over all queries that see it, of all heads that share it."""
    shared = tl.program_id(1).to(tl.int64)
    row = shared // (N // R)
    j = tl.program_id(0) * K + tl.arange(0, K)
    h, w = tl.arange(0, P), tl.arange(0, W)
    k, v = tile_at(k_ptr + shared * T * H, j, T, h, H), tile_at(v_ptr + shared * T * V, j, T, w, V)
    d_k, d_v = tl.zeros([K, P], tl.float32), tl.zeros([K, W], tl.float32)
    end = tl.max(tl.load(last_ptr + row * T + j, mask=j < T, other=-1), 0) + 1
    for r in range(R):
        head = shared * R + r
        for i0 in range(tl.program_id(0) * K // C * C, end, C):
            i = i0 + tl.arange(0, C)
            q, d_out = (
                tile_at(q_ptr + head * T * H, i, T, h, H),
                tile_at(d_out_ptr + head * T * V, i, T, w, V),
            )
            first = tl.load(first_ptr + row * T + i, mask=i < T, other=T)
            lse = tl.load(lse_ptr + head * T + i, mask=i < T, other=0.0)
            delta = tl.load(delta_ptr + head * T + i, mask=i < T, other=0.0)
            p, d_s = slopes_of(q, k, v, d_out, i, j, first, lse, delta, scale)
            d_v += product(tl.trans(p).to(d_out.dtype), d_out)
            d_k += product(tl.trans(d_s).to(q.dtype), q)
    store_at(d_k_ptr + shared * T * H, j, T, h, H, d_k * scale)
    store_at(d_v_ptr + shared * T * V, j, T, w, V, d_v)
