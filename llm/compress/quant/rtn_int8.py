"""RTN int8: round every weight to the nearest of 255 levels, one scale a row.

Equations   (1)-(2) in docs/compress/quant/rtn_int8.md
Source      Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, section 2.1 (absmax, row-wise)
Cost        O(weights); no data; 8 bits a weight and 16 bits a row
Differs     from the paper: weights only; activations stay float, so no outlier columns have to be split off
Shapes      O output features, I input features
"""

from dataclasses import dataclass
from typing import Any

from llm.compress.quant.base import RoundToNearest, empty_layers
from llm.nn.model import Decoder
from llm.params import from_dict


@dataclass(frozen=True, kw_only=True)
class Config:
    """group_size: columns that share a scale; 0 = the whole row."""

    group_size: int = 0

    def __post_init__(self) -> None:
        if self.group_size < 0:
            raise ValueError(f"group_size ({self.group_size}) must not be negative; 0 = one scale a row")


class RoundToNearestInt8(RoundToNearest):
    """scale = max|w| / 127; code = round(w / scale)."""

    bits = 8

    def __init__(self, config: Config) -> None:
        super().__init__(group_size=config.group_size)
        self.config = config


def prepare(model: Decoder, quantization: dict[str, Any]) -> None:
    """Replace the layers of `model` by the empty ones its stored weights fit into."""
    config = from_dict(Config, quantization.get("config", {}), "config.json.quantization.config")
    empty_layers(model, bits=RoundToNearestInt8.bits, group_size=config.group_size)


build = RoundToNearestInt8
