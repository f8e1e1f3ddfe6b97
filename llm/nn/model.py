"""model: a decoder-only Transformer whose parts are chosen by `model.*.kind`; Pre-LN unless told otherwise.

    tokens -> embedding (+ position) -> n_layers x [ x + mixer(norm(x)) ; x + ffn(norm(x)) ] -> norm -> head

Equations   (1)-(4) in docs/nn/model.md; comments below carry the same numbers.
Source      Vaswani et al. 2017, arXiv 1706.03762; Pre-LN: Xiong et al. 2020, arXiv 2002.04745
Shapes      B batch, T tokens, D d_model, V vocabulary
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from llm import registry
from llm.nn.kernels.token import Linear, Module
from llm.nn.mixers.base import Context, Site, State, Step, next_step, rows_of
from llm.nn.mtp import MTPConfig, MTPModule
from llm.nn.position.base import Position, Shape, segment_positions
from llm.nn.residual import pre_norm
from llm.nn.residual.base import Block
from llm.params import Family


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """max_len: tokens a position table or a decoding state may hold. tied_head: head = embedding transposed.
    embedding_norm: one more norm right after the embedding (RWKV)."""

    d_model: int
    n_layers: int
    max_len: int
    tied_head: bool
    mixer: Annotated[Any, Family("llm.nn.mixers", nested=True)]
    ffn: Annotated[Any, Family("llm.nn.ffn", nested=True)]
    norm: Annotated[Any, Family("llm.nn.norm", nested=True)]
    position: Annotated[Any, Family("llm.nn.position", nested=True)]
    init: Annotated[Any, Family("llm.nn.init", nested=True)]
    residual: Annotated[Any, Family("llm.nn.residual", nested=True)] = field(default_factory=pre_norm.Config)
    mtp: MTPConfig = field(default_factory=MTPConfig)
    embedding_norm: bool = False

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layers", "max_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")


class Decoder(Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.embedding_norm = (
            registry.build(config.norm, config.d_model) if config.embedding_norm else nn.Identity()
        )
        self.layers = [
            self._block(layer) for layer in range(config.n_layers)
        ]  # typed; `blocks` registers them
        self.blocks = nn.ModuleList(self.layers)
        last = self.layers[-1]
        self.final_norm = registry.build(config.norm, config.d_model) if last.final_norm else nn.Identity()
        self.head = Linear(config.d_model, vocab_size)
        self.position: Position = registry.build(config.position, self._shape())
        # typed as a plain list and registered as for the blocks; depth 0 leaves no trace in the weights.
        # turn 0: a module reads rows of its own, for which no layer of the decoder has left anything
        site = replace(self._site(config.n_layers - 1), turn=0)
        self.mtp = [MTPModule(config, site) for _ in range(config.mtp.depth)]
        self.mtp_modules = nn.ModuleList(self.mtp)
        registry.build(config.init).apply(self, config.n_layers)
        if config.tied_head:
            self.head.weight = self.embedding.weight

    def _site(self, layer: int) -> Site:
        config = self.config
        return Site(
            d_model=config.d_model,
            layer=layer,
            n_layers=config.n_layers,
            max_len=config.max_len,
            norm=config.norm,
        )

    def _block(self, layer: int) -> Block:
        config, site = self.config, self._site(layer)
        block: Block = registry.build(config.residual, site, mixer=config.mixer, ffn=config.ffn)
        return block

    def _shape(self) -> Shape:
        """What the position encoding has to serve. Raises ValueError where a mixer cannot take it."""
        mixers = [block.mixer for block in self.layers]
        heads = {mixer.n_heads for mixer in mixers if mixer.takes_bias}
        if registry.module("llm.nn.position", registry.kind_of(self.config.position)).build.way == "bias":
            deaf = sorted(
                {type(mixer).__name__ for mixer in mixers if mixer.rotates and not mixer.takes_bias}
            )
            if deaf or len(heads) > 1:
                why = f"{deaf[0]} takes none" if deaf else f"mixers have {sorted(heads)} heads"
                raise ValueError(
                    f"model.position: this kind is a bias on scores and {why}; choose rope or none"
                )
        return Shape(
            d_model=self.config.d_model,
            max_len=self.config.max_len,
            widths=sorted({width for mixer in mixers for width in mixer.rotates}),
            n_heads=max(heads, default=1),
        )

    def hidden(self, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Final normalised hidden states [B, T, D] and the summed auxiliary loss of the FFNs, if any."""
        x_BTD, context = self._enter(tokens_BT, segments_BT)
        aux: Tensor | None = None
        for block in self.layers:
            x_BTD, extra = block(x_BTD, self.position, context)
            if extra is not None:
                aux = extra if aux is None else aux + extra
        for extra in context.losses:
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
        x_BTD = self.embedding_norm(self.embedding(tokens_BT))
        context = self.context(T, segments_BT, x_BTD)
        extra = self.position.embed(context.positions)
        if extra is not None:
            x_BTD = x_BTD + extra.to(x_BTD.dtype)  # (1)
        return x_BTD, context

    def context(self, tokens: int, segments_BT: Tensor | None, like: Tensor) -> Context:
        """What the mixers of all layers share for rows of `tokens`; dtype and device are those of `like`."""
        positions = torch.arange(tokens, device=like.device)
        if segments_BT is not None and not self.position.relative:
            positions = segment_positions(segments_BT)
        angles = self.position.angles(positions, like.dtype)
        return Context(positions=positions, dtype=like.dtype, angles=angles, segments_BT=segments_BT)

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
        x_BD = rows_of(x_B1D)
        for block, state in zip(self.layers, states, strict=True):
            x_BD = block.decode(x_BD, self.position, state, step)
        return self.head(self.final_norm(x_BD)).view(len(tokens_B1), 1, -1)

    def _embed_next(
        self, tokens_BT: Tensor, states: list[State], lengths_B: Tensor | None = None
    ) -> tuple[Tensor, Step]:
        x_BTD = self.embedding_norm(self.embedding(tokens_BT))
        step = next_step(states[0], self.position, tokens_BT.shape[1], x_BTD.dtype, lengths_B)
        extra = self.position.embed(step.positions_BT)
        return x_BTD if extra is None else x_BTD + extra.to(x_BTD.dtype), step

    # ---------------------------------------------------------------- facts

    def num_params(self) -> int:
        """Trainable numbers, a tied head counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
