"""model: a decoder-only Transformer, Pre-LN, whose parts are chosen by `model.*.kind`.

    tokens -> embedding (+ position) -> n_layers x [ x + mixer(norm(x)) ; x + ffn(norm(x)) ] -> norm -> head

Equations   (1)-(4) in docs/nn/model.md; comments below carry the same numbers.
Source      Vaswani et al. 2017, arXiv 1706.03762; Pre-LN: Xiong et al. 2020, arXiv 2002.04745
Shapes      B batch, T tokens, D d_model, V vocabulary
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from llm import registry
from llm.nn.ffn.base import FFN
from llm.nn.mixers.base import Context, Mixer, State, Step, next_step, segment_mask
from llm.nn.position.base import Position, segment_positions
from llm.params import Family


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """max_len: tokens a position table or a decoding state may hold. tied_head: head = embedding transposed."""

    d_model: int
    n_layers: int
    max_len: int
    tied_head: bool
    mixer: Annotated[Any, Family("llm.nn.mixers")]
    ffn: Annotated[Any, Family("llm.nn.ffn")]
    norm: Annotated[Any, Family("llm.nn.norm")]
    position: Annotated[Any, Family("llm.nn.position")]
    init: Annotated[Any, Family("llm.nn.init")]

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layers", "max_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")


class Block(nn.Module):
    """One Pre-LN layer: the residual stream itself is never normalised."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mixer_norm = registry.build(config.norm, config.d_model)
        self.mixer: Mixer[Any] = registry.build(config.mixer, d_model=config.d_model, norm=config.norm)
        self.ffn_norm = registry.build(config.norm, config.d_model)
        self.ffn: FFN = registry.build(config.ffn, d_model=config.d_model)

    def forward(self, x_BTD: Tensor, position: Position, context: Context) -> tuple[Tensor, Tensor | None]:
        x_BTD = x_BTD + self.mixer(self.mixer_norm(x_BTD), position, context)  # (2)
        out = self.ffn(self.ffn_norm(x_BTD))
        return x_BTD + out.y_BTD, out.aux_loss  # (3)

    def prefill(self, x_BTD: Tensor, position: Position, state: State, step: Step) -> Tensor:
        x_BTD = x_BTD + self.mixer.prefill(self.mixer_norm(x_BTD), position, state, step)
        return x_BTD + self.ffn(self.ffn_norm(x_BTD)).y_BTD

    def decode(self, x_B1D: Tensor, position: Position, state: State, step: Step) -> Tensor:
        x_B1D = x_B1D + self.mixer.decode(self.mixer_norm(x_B1D), position, state, step)
        return x_B1D + self.ffn(self.ffn_norm(x_B1D)).y_BTD


class Decoder(nn.Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.layers = [Block(config) for _ in range(config.n_layers)]  # typed; `blocks` registers them
        self.blocks = nn.ModuleList(self.layers)
        self.final_norm = registry.build(config.norm, config.d_model)
        self.head = nn.Linear(config.d_model, vocab_size, bias=False)
        self.position: Position = registry.build(
            config.position, d_model=config.d_model, d_head=self._d_head(), max_len=config.max_len
        )
        registry.build(config.init).apply(self, config.n_layers)
        if config.tied_head:
            self.head.weight = self.embedding.weight

    def _d_head(self) -> int:
        return int(getattr(self.layers[0].mixer, "d_head", self.config.d_model))

    def hidden(self, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Final normalised hidden states [B, T, D] and the summed auxiliary loss of the FFNs, if any."""
        x_BTD, context = self._enter(tokens_BT, segments_BT)
        aux: Tensor | None = None
        for block in self.layers:
            x_BTD, extra = block(x_BTD, self.position, context)
            if extra is not None:
                aux = extra if aux is None else aux + extra
        return self.final_norm(x_BTD), aux

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
        """Logits [B, T, V]. segments_BT: document number of each token, 0 = padding; None = one document."""
        return self.head(self.hidden(tokens_BT, segments_BT)[0])  # (4)

    def _enter(self, tokens_BT: Tensor, segments_BT: Tensor | None) -> tuple[Tensor, Context]:
        B, T = tokens_BT.shape
        if self.config.max_len < T:
            raise ValueError(
                f"model: row of {T} tokens, max_len is {self.config.max_len}; raise model.max_len"
            )
        x_BTD = self.embedding(tokens_BT)
        positions = torch.arange(T, device=tokens_BT.device)
        mask = None
        if segments_BT is not None:
            mask = segment_mask(segments_BT, x_BTD.dtype)
            if not self.position.relative:
                positions = segment_positions(segments_BT)
        extra = self.position.embed(positions)
        if extra is not None:
            x_BTD = x_BTD + extra.to(x_BTD.dtype)  # (1)
        angles = self.position.angles(positions, x_BTD.dtype)
        return x_BTD, Context(positions=positions, angles=angles, segments_BT=segments_BT, mask_BTS=mask)

    # ---------------------------------------------------------------- decoding

    def init_state(self, batch: int, max_len: int | None = None) -> list[State]:
        """One empty state a layer, with room for `max_len` (default: the model's) tokens a row."""
        weight = self.embedding.weight
        room = max_len or self.config.max_len
        return [
            block.mixer.init_state(batch, room, device=weight.device, dtype=weight.dtype)
            for block in self.layers
        ]

    def prefill(self, tokens_BT: Tensor, states: list[State], lengths_B: Tensor | None = None) -> Tensor:
        """Read the next `lengths_B` tokens of each row (right-padded) -> logits [B, T, V]; grows `states`."""
        x_BTD, step = self._embed_next(tokens_BT, states, lengths_B)
        for block, state in zip(self.layers, states, strict=True):
            x_BTD = block.prefill(x_BTD, self.position, state, step)
        return self.head(self.final_norm(x_BTD))

    def decode(self, tokens_B1: Tensor, states: list[State]) -> Tensor:
        """One more token for every row -> logits [B, 1, V]; grows `states`."""
        x_B1D, step = self._embed_next(tokens_B1, states)
        for block, state in zip(self.layers, states, strict=True):
            x_B1D = block.decode(x_B1D, self.position, state, step)
        return self.head(self.final_norm(x_B1D))

    def _embed_next(
        self, tokens_BT: Tensor, states: list[State], lengths_B: Tensor | None = None
    ) -> tuple[Tensor, Step]:
        x_BTD = self.embedding(tokens_BT)
        step = next_step(states[0], self.position, tokens_BT.shape[1], x_BTD.dtype, lengths_B)
        extra = self.position.embed(step.positions_BT)
        return x_BTD if extra is None else x_BTD + extra.to(x_BTD.dtype), step

    # ---------------------------------------------------------------- facts

    def num_params(self) -> int:
        """Trainable numbers, a tied head counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
