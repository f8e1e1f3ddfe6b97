"""alternate: two feed-forward layers that take turns over the layers.

Idea        docs/nn/ffn/alternate.md: experts in every second layer, or in all but the first ones
Source      every second: Jamba, arXiv 2403.19887, section 2; the first ones dense: DeepSeekMoE, arXiv 2401.06066,
            section 4.1
Cost        the mean of its parts
Differs     from the papers: nothing
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from llm import registry
from llm.nn.ffn.base import FFN
from llm.nn.mixers.base import Site
from llm.params import Family


@dataclass(frozen=True, kw_only=True)
class Config:
    """pattern: which part the layers use in turn, repeated to the last; leading_first: how many layers use `first`
    before the pattern begins; first, second: the parts.

    Two slots with names, and not a list, because DVC tracks the file of each kind by its key.
    """

    first: Annotated[Any, Family("llm.nn.ffn", nested=True)]
    second: Annotated[Any, Family("llm.nn.ffn", nested=True)]
    pattern: tuple[Literal["first", "second"], ...] = ("first", "second")
    leading_first: int = 0

    def __post_init__(self) -> None:
        if not self.pattern:
            raise ValueError("pattern ([]) must name at least one part")
        if self.leading_first < 0:
            raise ValueError(f"leading_first ({self.leading_first}) must be at least 0")
        for name in ("first", "second"):
            if isinstance(getattr(self, name), Config):
                raise ValueError(f"{name} (alternate) must not take turns itself")


def build(config: Config, site: Site) -> FFN:
    """The feed-forward layer of one layer: `first` up to `leading_first`, then `pattern`, counted around."""
    turn = site.layer - config.leading_first
    part = "first" if turn < 0 else config.pattern[turn % len(config.pattern)]
    ffn: FFN = registry.build(getattr(config, part), site)
    return ffn
