"""base: the interface of a feed-forward layer.

Shapes      B batch, T tokens, D d_model
"""

from abc import abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, nn

from llm.nn.kernels.token import Module


@dataclass
class FFNOutput:
    """y_BTD; aux_loss: a scalar added to the training loss, or None; stats: telemetry, by name."""

    y_BTD: Tensor
    aux_loss: Tensor | None = None
    stats: dict[str, Tensor] = field(default_factory=dict)


class FFN(Module):
    """Transforms each token by itself. Built as `build(config, site)` with a `mixers.base.Site`.

    It does not know which tokens are padding or unscored: all of them pass through it alike.
    absent: a fact of the class, True where the layer is nothing at all; a block then leaves it out, norm included.
    """

    absent = False

    @abstractmethod
    def forward(self, x_BTD: Tensor) -> FFNOutput: ...

    def before_step(self) -> None:
        """Called before the forward passes of every training step: forget what was counted outside of one."""
        return

    def after_step(self) -> dict[str, float]:
        """Called once after every optimizer step: what changes by rule instead of by gradient (the balancing
        bias of experts); returns facts to log."""
        return {}


def feed_forwards(model: nn.Module) -> list[FFN]:
    """Every FFN of a model, wherever it sits."""
    return [module for module in model.modules() if isinstance(module, FFN)]


def before_step(model: nn.Module) -> None:
    """`before_step` of every FFN of a model."""
    for ffn in feed_forwards(model):
        ffn.before_step()


def after_step(model: nn.Module) -> dict[str, float]:
    """`after_step` of every FFN of a model, once each; the facts are means over the layers that report them."""
    found: dict[str, list[float]] = {}
    for ffn in feed_forwards(model):
        for name, value in ffn.after_step().items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def gated_width(d_model: int) -> int:
    """Hidden width of a gated layer (three matrices) with the parameters of a plain 4 d_model one (two)."""
    return max(32, round(8 * d_model / 3 / 32) * 32)
