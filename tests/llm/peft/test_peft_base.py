"""Attaching adapters: which layers a target names, and what is said when it names none."""

import pytest
import torch
from torch import nn

from llm.peft.base import adapter_tensors, match
from llm.peft.lora import Config, LoRA


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w_q, self.w_k = nn.Linear(4, 4), nn.Linear(4, 4)


class Model(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(4, 6, bias=False)
        if tied:
            self.head.weight = self.embedding.weight


def test_a_target_names_that_layer_of_every_block_or_one_layer() -> None:
    assert match(Model(), ("w_q",)) == ["blocks.0.w_q", "blocks.1.w_q"]
    assert match(Model(), ("blocks.1.w_k", "head")) == ["blocks.1.w_k", "head"]


def test_a_target_that_matches_nothing_lists_the_layers() -> None:
    with pytest.raises(
        ValueError, match=r"peft\.targets: 'q_proj' matches no layer; layers are w_q, w_k, head"
    ):
        match(Model(), ("w_q", "q_proj"))
    with pytest.raises(ValueError, match="no layer named; layers are w_q"):
        match(Model(), ())


def test_a_tied_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="'head' is tied"):
        match(Model(tied=True), ("head",))


def test_adapter_file_holds_the_adapter_and_nothing_else() -> None:
    model = Model().double()
    LoRA(Config(rank=2, alpha=2.0, targets=("w_q",))).attach(model)
    tensors = adapter_tensors(model)
    assert sorted(tensors) == [f"blocks.{i}.w_q.lora_{x}" for i in (0, 1) for x in "ab"]
    assert all(tensor.dtype == torch.float32 and not tensor.requires_grad for tensor in tensors.values())
