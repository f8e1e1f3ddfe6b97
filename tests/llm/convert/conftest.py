"""A tokenizer folder and a round trip that every architecture must pass."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.commands.convert import convert
from llm.nn import io
from llm.tokenizer.algorithms import bpe
from llm.tokenizer.algorithms.base import train_tokenizer

TEXTS = ["A duck sat on a lake. " * 3, "The king gave the old man a ring."]
T = 23


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(
        bpe.build(bpe.Config(vocab_size=270, min_frequency=2, special_tokens=())), TEXTS, folder, "corpus"
    )
    return folder


class RoundTrip:
    """A tiny random model of transformers -> ours -> theirs: logits and gradients equal, tensors equal."""

    def __init__(self, tokenizer: Path, folder: Path) -> None:
        self.tokenizer, self.folder = tokenizer, folder

    def __call__(
        self,
        theirs: Any,
        *,
        atol: float = 2e-5,
        embedding_scale: float = 1.0,
        released: Callable[[str], str] = str,
    ) -> float:
        """Returns the largest difference of a logit. embedding_scale: the factor that is part of our embedding.
        released: the name a tensor has in releases, where `transformers` reads that but saves it under another."""
        self.embedding_scale, self.released = embedding_scale, released
        torch.manual_seed(0)
        for parameter in theirs.parameters():
            if parameter.dim() == 1:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)  # gains of 1 would hide a swapped norm
        theirs.eval().save_pretrained(self.folder / "theirs")
        convert(self.folder / "theirs", self.folder / "ours", tokenizer=self.tokenizer)
        ours = io.load_model(self.folder / "ours")
        tokens = torch.randint(0, theirs.config.vocab_size, (2, T))
        expected = theirs(input_ids=tokens, use_cache=False).logits
        found = ours(tokens)
        torch.testing.assert_close(found, expected, atol=atol, rtol=0)
        self.gradients(ours, theirs, found, expected, atol)
        convert(self.folder / "ours", self.folder / "again", to=theirs.config.model_type)
        self.same_files(theirs)
        return float((found - expected).detach().abs().max())

    def gradients(
        self, ours: Any, theirs: Any, found: torch.Tensor, expected: torch.Tensor, atol: float
    ) -> None:
        """Equal sums of squared gradients, and equal gradients of the embedding."""
        weight = torch.randn_like(expected)
        (found * weight).sum().backward()
        (expected * weight).sum().backward()
        split = [ours.embedding.weight.grad]  # what is one tensor there
        mine, yours = split[0] * self.embedding_scale, theirs.get_input_embeddings().weight.grad
        if theirs.config.tie_word_embeddings and not ours.config.tied_head:
            split.append(ours.head.weight.grad)
            mine = mine + split[1]
        torch.testing.assert_close(
            mine / yours.abs().max(), yours / yours.abs().max(), atol=20 * atol, rtol=0
        )
        total = sum(float(p.grad.square().sum()) for p in ours.parameters() if p.grad is not None)
        wanted = sum(float(p.grad.square().sum()) for p in theirs.parameters() if p.grad is not None)
        total += float(mine.square().sum()) - sum(float(part.square().sum()) for part in split)
        assert total == pytest.approx(wanted, rel=1e-3)

    def same_files(self, theirs: Any) -> None:
        """What comes back is what was sent, and transformers reads it."""
        from safetensors.torch import load_file

        saved = load_file(self.folder / "theirs" / "model.safetensors")
        before = {self.released(name): tensor for name, tensor in saved.items()}
        after = load_file(self.folder / "again" / "model.safetensors")
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            torch.testing.assert_close(after[name], tensor, atol=0, rtol=0, msg=name)
        again = type(theirs).from_pretrained(self.folder / "again").eval()
        tokens = torch.randint(0, theirs.config.vocab_size, (1, T))
        kwargs = {"input_ids": tokens, "use_cache": False}
        torch.testing.assert_close(again(**kwargs).logits, theirs(**kwargs).logits, atol=1e-6, rtol=0)
        assert json.loads((self.folder / "again" / "config.json").read_text())["architectures"] == [
            type(theirs).__name__
        ]


@pytest.fixture
def round_trip(tokenizer_folder: Path, tmp_path: Path) -> RoundTrip:
    return RoundTrip(tokenizer_folder, tmp_path)
