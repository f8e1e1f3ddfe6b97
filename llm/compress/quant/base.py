"""base: integer weights with scales, how they are stored, and the interface of a quantizer.

    weight [out, in]  ~  codes [out, in] (signed integers)  *  scale of the row and group

Equations   (1)-(3) in docs/compress/quant/base.md; comments below carry the same numbers.
Shapes      O output features, I input features, N groups of a row, M calibration tokens
Storage     8 bits: int8 [O, I]. 4 bits: uint8 [O, ceil(I / 2)], the even column in the low nibble, the odd
            one in the high nibble, each holding code + 8. Scales: float16 [O, N]. Row-major.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.nn.kernels.token import product
from llm.nn.model import Decoder

QMAX = {8: 127, 4: 7}  # codes run from -QMAX to QMAX: symmetric, so that 0 stays 0
_TINY = 2.0**-24  # smallest positive float16: the scale of a group of zeros

# ---------------------------------------------------------------- codes and scales


def pack_int4(codes_OI: Tensor) -> Tensor:
    """Codes -8..7 -> uint8 [O, ceil(I / 2)]; low nibble = even column, an odd width is padded with 0."""
    nibbles = (codes_OI + 8).to(torch.uint8)
    if nibbles.shape[1] % 2:
        nibbles = F.pad(nibbles, (0, 1), value=8)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack_int4(packed: Tensor, in_features: int) -> Tensor:
    """Inverse of `pack_int4` -> int8 [O, I]."""
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)[:, :in_features]
    return nibbles.to(torch.int8) - 8


def group_width(in_features: int, limit: int) -> int:
    """Columns that share a scale: `limit` or what divides.

    The whole row where it is no longer than `limit` (or limit is 0); else the largest divisor from limit / 2
    to limit; else (a prime d_ff, say) equal groups of which the last is shorter.
    """
    if limit == 0 or in_features <= limit:
        return in_features
    for width in range(limit, limit // 2 - 1, -1):
        if in_features % width == 0:
            return width
    return math.ceil(in_features / math.ceil(in_features / limit))


def symmetric_scales(weight_OI: Tensor, *, bits: int, group: int, clip_steps: int = 0) -> Tensor:
    """Scales [O, N], max|w| / qmax of each group (1), rounded to float16 *before* they are used.

    clip_steps: also try the shrunken scales 1 - i / 100, i = 1 .. clip_steps, and keep for each group the
    one with the smallest sum |error|^2.4 (the grid of the GPTQ authors' code).
    """
    padded = F.pad(weight_OI, (0, -weight_OI.shape[1] % group)).unflatten(1, (-1, group))  # [O, N, group]
    full = padded.abs().amax(2) / QMAX[bits]  # (1)
    best, best_error = _half(full), None
    for step in range(clip_steps + 1 if clip_steps else 0):
        scales = _half(full * (1 - step / 100))
        codes = (padded / scales[..., None]).round().clamp(-QMAX[bits], QMAX[bits])
        error = (codes * scales[..., None] - padded).abs().pow(2.4).sum(2)
        if best_error is None:
            best_error = error
        better = error < best_error
        best, best_error = torch.where(better, scales, best), torch.where(better, error, best_error)
    return best


def _half(scales: Tensor) -> Tensor:
    """Round to float16 values, kept in the type of the input; never 0."""
    return scales.to(torch.float16).to(scales.dtype).clamp(min=_TINY)


def round_to_nearest(weight_OI: Tensor, scales_ON: Tensor, *, bits: int, group: int) -> Tensor:
    """Codes [O, I] int8: the nearest multiple of the scale, clamped (2); ties go to the even code."""
    wide = expand(scales_ON, group, weight_OI.shape[1])
    return (weight_OI / wide).round().clamp(-QMAX[bits], QMAX[bits]).to(torch.int8)


def expand(scales_ON: Tensor, group: int, in_features: int) -> Tensor:
    """Scale of every column, [O, I]."""
    return scales_ON.repeat_interleave(group, dim=1)[:, :in_features]


# ---------------------------------------------------------------- layers


class QuantModule(nn.Module):
    """Packed codes and scales. The arithmetic runs on a dequantised copy that is made at the first use.

    This saves disk and transfer, not memory: on a CPU, unpacking at every call would cost more than the
    product itself. The copy is no part of the state; moving or loading the module drops it.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, rows: int, columns: int, *, bits: int, group: int) -> None:
        super().__init__()
        self.rows, self.columns, self.bits, self.group = rows, columns, bits, group
        shape = (rows, columns) if bits == 8 else (rows, (columns + 1) // 2)
        self.register_buffer("codes", torch.zeros(shape, dtype=torch.int8 if bits == 8 else torch.uint8))
        self.register_buffer("scales", torch.zeros(rows, math.ceil(columns / group), dtype=torch.float16))
        self._dense: Tensor | None = None

    def store(self, codes_OI: Tensor, scales_ON: Tensor) -> None:
        """Keep signed codes and the scales they were made with; (3) reproduces them exactly."""
        self.codes = codes_OI.to(torch.int8) if self.bits == 8 else pack_int4(codes_OI)
        self.scales = scales_ON.to(torch.float16)
        self._dense = None

    def dequantize(self) -> Tensor:
        """The float32 weight the codes stand for, [rows, columns] (3)."""
        codes = self.codes if self.bits == 8 else unpack_int4(self.codes, self.columns)
        return codes.float() * expand(self.scales.float(), self.group, self.columns)  # (3)

    @property
    def weight(self) -> Tensor:
        """The dequantised copy, made once; an ordinary tensor even when inference made it."""
        if self._dense is None:
            with torch.inference_mode(False), torch.no_grad():
                self._dense = self.dequantize()
        return self._dense

    @property
    def stored_bytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantModule":
        self._dense = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._dense = None
        super()._load_from_state_dict(*args, **kwargs)


class QuantLinear(QuantModule):
    """y = x W^T + b with a stored integer W."""

    def __init__(
        self, out_features: int, in_features: int, *, bits: int, group: int, bias: bool = False
    ) -> None:
        super().__init__(out_features, in_features, bits=bits, group=group)
        self.out_features, self.in_features = out_features, in_features
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def like(cls, linear: nn.Linear, *, bits: int, group: int) -> "QuantLinear":
        """An empty layer of the same shape; the bias, if any, is kept as it is."""
        out = cls(
            linear.out_features, linear.in_features, bits=bits, group=group, bias=linear.bias is not None
        )
        if linear.bias is not None:
            out.bias = nn.Parameter(linear.bias.detach().clone())
        return out

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        return product(x, weight) if self.bias is None else F.linear(x, weight, self.bias)


class QuantEmbedding(QuantModule):
    """Rows of a table with one scale each; only the rows looked up are dequantised."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.codes[tokens].float() * self.scales[tokens].float()


class TiedHead(nn.Module):
    """The output head of a tied model: it reads the embedding's codes and stores nothing itself."""

    def __init__(self, embedding: QuantEmbedding) -> None:
        super().__init__()
        self._shared = [embedding]  # in a list, so that it is not registered a second time

    @property
    def weight(self) -> Tensor:
        return self._shared[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight.to(x.dtype))


# ---------------------------------------------------------------- the interface


class Quantizer(ABC):
    """Turns linear layers into QuantLinears.

    `bits` is a fact of the class. A quantizer that looks at data collects it in `observe` and hands it
    out in `stats`; one that does not leaves both as they are.
    """

    bits: int

    def observe(self, name: str, x_MI: Tensor) -> None:  # noqa: B027 - a default, not forgotten
        """Take in inputs of the layer `name`, real tokens only; may be called several times."""

    def stats(self, name: str) -> Any:
        """What was collected for `name`, or None."""
        return None

    @abstractmethod
    def quantize(self, linear: nn.Linear, stats: Any = None) -> QuantLinear:
        """The quantised layer; `linear` is not changed."""


class RoundToNearest(Quantizer):
    """Scales from the weights alone (1), codes by rounding (2); no data. The base of `rtn_int8` and `rtn_int4`."""

    def __init__(self, *, group_size: int, clip_steps: int = 0) -> None:
        self.group_size, self.clip_steps = group_size, clip_steps

    def quantize(self, linear: nn.Linear, stats: Any = None) -> QuantLinear:
        group = group_width(linear.in_features, self.group_size)
        weight_OI = linear.weight.detach().float()
        scales_ON = symmetric_scales(weight_OI, bits=self.bits, group=group, clip_steps=self.clip_steps)
        out = QuantLinear.like(linear, bits=self.bits, group=group)
        out.store(round_to_nearest(weight_OI, scales_ON, bits=self.bits, group=group), scales_ON)
        return out


def linear_layers(model: Decoder) -> list[str]:
    """Names of the layers of the blocks to quantise, in the order of `named_modules` (the head is not one)."""
    return [f"blocks.{name}" for name, module in model.blocks.named_modules() if is_layer(module)]


def is_layer(module: nn.Module) -> bool:
    """A linear layer, quantised or to be quantised; not one that says it is `exact`, as routers do."""
    return isinstance(module, (nn.Linear, QuantLinear)) and not getattr(module, "exact", False)


def take_apart(model: Decoder) -> None:
    """Modules that hold stacks of matrices, as experts do, become modules of layers: those that know how (`apart`)."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "apart"):
            replace(model, name, module.apart())


def replace(model: Decoder, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the submodule `name`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def quantize_tables(model: Decoder) -> None:
    """Embedding and head -> int8 with one scale a row, in place; a tied head keeps sharing the table.

    Both stay at 8 bits in every method: they hold the rare tokens, and 4 bits there cost more bits per byte
    than in all blocks together (docs/compress/quant/base.md has the numbers).
    """
    tied = model.head.weight is model.embedding.weight
    embedding = QuantEmbedding(model.vocab_size, model.config.d_model, bits=8, group=model.config.d_model)
    _store_rows(embedding, model.embedding.weight)
    head = TiedHead(embedding) if tied else QuantLinear.like(model.head, bits=8, group=model.config.d_model)
    if isinstance(head, QuantLinear):
        _store_rows(head, model.head.weight)
    replace(model, "embedding", embedding)
    replace(model, "head", head)


def _store_rows(module: QuantModule, weight: Tensor) -> None:
    weight = weight.detach().float()
    scales = symmetric_scales(weight, bits=8, group=module.group)
    module.store(round_to_nearest(weight, scales, bits=8, group=module.group), scales)


def empty_layers(model: Decoder, *, bits: int, group_size: int) -> None:
    """Give `model` the empty layers that a stored quantised model is loaded into."""
    take_apart(model)
    for name in linear_layers(model):
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        replace(
            model,
            name,
            QuantLinear.like(linear, bits=bits, group=group_width(linear.in_features, group_size)),
        )
    quantize_tables(model)
