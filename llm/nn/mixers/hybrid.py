"""hybrid: two mixers that take turns over the layers.

Idea        docs/nn/mixers/hybrid.md: most layers cheap (a window, a recurrence), a few that see everything
Source      Lieber et al. 2024, Jamba, arXiv 2403.19887; Kimi Team 2025, Kimi Linear, arXiv 2510.26692;
            MiniMax 2025, MiniMax-01, arXiv 2501.08313; Gemma Team 2024, Gemma 2, arXiv 2408.00118
Cost        the mean of its parts; each layer keeps the state of its own mixer
Differs     from the papers: nothing; a recipe with three mixers needs a third slot here
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from llm import registry
from llm.nn.mixers.base import Mixer, Site
from llm.params import Family


@dataclass(frozen=True, kw_only=True)
class Config:
    """pattern: which part the layers use in turn, from layer 0, repeated to the last; first, second: the parts.

    Two slots with names, and not a list, because DVC tracks the file of each kind by its key.
    """

    first: Annotated[Any, Family("llm.nn.mixers", nested=True)]
    second: Annotated[Any, Family("llm.nn.mixers", nested=True)]
    pattern: tuple[Literal["first", "second"], ...] = ("first", "first", "first", "second")

    def __post_init__(self) -> None:
        if not self.pattern:
            raise ValueError("pattern ([]) must name at least one part")
        for name in ("first", "second"):
            if isinstance(getattr(self, name), Config):
                raise ValueError(f"{name} (hybrid) must not be a hybrid itself")


def build(config: Config, site: Site) -> Mixer[Any]:
    """The mixer of one layer: `pattern[site.layer]`, counted around."""
    parts = [config.pattern[layer % len(config.pattern)] for layer in range(site.layer + 1)]
    if site.turn is None:
        site = replace(site, turn=parts[:-1].count(parts[-1]))
    mixer: Mixer[Any] = registry.build(getattr(config, parts[-1]), site)
    return mixer
