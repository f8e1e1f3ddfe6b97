"""RTN int4: round every weight to the nearest of 15 levels, one scale a group of columns.

Equations   (1)-(3) in docs/compress/quant/rtn_int4.md
Source      the baseline of Frantar et al. 2022, GPTQ, arXiv 2210.17323, section 4
Cost        O(weights); no data; 4 bits a weight and 16 bits a group (4.125 bits a weight at 128)
Differs     from the paper's baseline: symmetric, no zero point; the clipping grid is optional
Shapes      O output features, I input features
"""

from dataclasses import dataclass
from typing import Any

from llm.compress.quant.base import RoundToNearest, empty_layers
from llm.nn.model import Decoder
from llm.params import from_dict


@dataclass(frozen=True, kw_only=True)
class Config:
    """group_size: columns that share a scale, or what divides; clip_steps: per cent of shrinking tried."""

    group_size: int = 128
    clip_steps: int = 0

    def __post_init__(self) -> None:
        if self.group_size < 0:
            raise ValueError(f"group_size ({self.group_size}) must not be negative; 0 = one scale a row")
        if not 0 <= self.clip_steps < 100:
            raise ValueError(f"clip_steps ({self.clip_steps}) must be from 0 to 99")


class RoundToNearestInt4(RoundToNearest):
    """scale = max|w| / 7 of the group; code = round(w / scale)."""

    bits = 4

    def __init__(self, config: Config) -> None:
        super().__init__(group_size=config.group_size, clip_steps=config.clip_steps)
        self.config = config


def prepare(model: Decoder, quantization: dict[str, Any]) -> None:
    """Replace the layers of `model` by the empty ones its stored weights fit into."""
    config = from_dict(Config, quantization.get("config", {}), "config.json.quantization.config")
    empty_layers(model, bits=RoundToNearestInt4.bits, group_size=config.group_size)


build = RoundToNearestInt4
