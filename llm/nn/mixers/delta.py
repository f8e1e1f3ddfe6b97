"""delta: DeltaNet, linear attention whose writes replace what a key stood for instead of adding to it.

Equations   (1)-(5) in docs/nn/mixers/delta.md; comments below carry the same numbers.
Source      Yang et al. 2024, Parallelizing Linear Transformers with the Delta Rule, arXiv 2406.06484, section 3;
            Schlag et al. 2021, arXiv 2102.11174 (the rule)
Cost        train O(T (C (K + V) + K V) N); decode O(K V N); state K V N + (W - 1) (2 G K + N V) numbers
Differs     from the paper: nothing (its layer with convolution and silu, norm of each head's output)
Shapes      B batch, T tokens, D d_model, N heads, K d_key, V d_value
"""

from dataclasses import dataclass

from torch import Tensor

from llm.nn.mixers._delta import DeltaConfig, DeltaMixer


@dataclass(frozen=True, kw_only=True)
class Config(DeltaConfig):
    """All of `DeltaConfig`."""


class DeltaNet(DeltaMixer):
    """Nothing fades; only a write to the same key changes what the state holds."""

    def finish(self, o_BTNV: Tensor, x_BTD: Tensor) -> Tensor:
        normed: Tensor = self.o_norm(o_BTNV)
        return normed


build = DeltaNet
