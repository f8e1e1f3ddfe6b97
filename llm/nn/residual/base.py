"""base: one layer of the model: a mixer and an FFN, joined to the residual stream.

A variant says how a sub-layer is joined (`join`) and owns the norms this takes.

Shapes      B batch, T tokens, D d_model
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from llm import registry
from llm.nn.ffn.base import FFN
from llm.nn.kernels.token import Module
from llm.nn.mixers.base import Context, Mixer, Site, State, Step
from llm.nn.position.base import Position

Which = Literal["mixer", "ffn"]


class Block(Module):
    """Built as `build(config, site, mixer=…, ffn=…)`, the last two being Configs.

    final_norm is a fact of the class: True where the stream leaves the last block un-normalised, so that
    the model needs one more norm before the head. An FFN that is `absent` is not joined at all.
    """

    final_norm = True

    def __init__(self, site: Site, *, mixer: Any, ffn: Any) -> None:
        super().__init__()
        self.mixer: Mixer[Any] = registry.build(mixer, site)
        self.ffn: FFN = registry.build(ffn, site)

    def norm_for(self, site: Site, which: Which) -> nn.Module:
        """A norm beside a sub-layer; nothing beside one that is absent."""
        absent = which == "ffn" and self.ffn.absent
        return nn.Identity() if absent else registry.build(site.norm, site.d_model)

    @abstractmethod
    def join(self, x_BTD: Tensor, sublayer: Callable[[Tensor], Tensor], which: Which) -> Tensor:
        """The stream after the sub-layer, which is called exactly once."""

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> tuple[Tensor, Tensor | None]:
        """A whole row -> (stream, auxiliary loss of the FFN or None)."""
        losses: list[Tensor] = []

        def feed(h_BTD: Tensor) -> Tensor:
            out = self.ffn(h_BTD)
            if out.aux_loss is not None:
                losses.append(out.aux_loss)
            return out.y_BTD

        x_BTD = self.join(x_BTD, lambda h: self.mixer(h, position, context), "mixer")
        if not self.ffn.absent:
            x_BTD = self.join(x_BTD, feed, "ffn")
        return x_BTD, losses[0] if losses else None

    def prefill(self, x_BTD: Tensor, position: Position, state: State, step: Step) -> Tensor:
        """The next tokens of every row; grows `state`."""
        x_BTD = self.join(x_BTD, lambda h: self.mixer.prefill(h, position, state, step), "mixer")
        return self._feed(x_BTD)

    def decode(self, x_BD: Tensor, position: Position, state: State, step: Step) -> Tensor:
        """One more token for every row; grows `state`. The stream may have any shape that ends in D
        (`rows_of`): only the mixer asks for more."""

        def mix(h_BD: Tensor) -> Tensor:
            h_B1D = h_BD.view(-1, 1, h_BD.shape[-1])
            return self.mixer.decode(h_B1D, position, state, step).view(h_BD.shape)

        return self._feed(self.join(x_BD, mix, "mixer"))

    def _feed(self, x_BTD: Tensor) -> Tensor:
        return x_BTD if self.ffn.absent else self.join(x_BTD, lambda h: self.ffn(h).y_BTD, "ffn")
