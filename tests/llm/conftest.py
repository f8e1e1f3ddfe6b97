"""A tiny world for the stages after pretraining: tokenizer, encoded and packed sets, a random base model."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from llm import registry
from llm.data.document import SPLITS, Document, write_documents
from llm.data.encode import encode_set
from llm.data.pack import PackParams, pack_set
from llm.nn.io import save_model
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import Tokenizer, load_tokenizer

ANSWERS = {"sky": "blue", "grass": "green", "snow": "white", "night": "black", "sun": "yellow", "rose": "red"}


@dataclass(frozen=True)
class World:
    """Folders as the pipeline would have left them."""

    root: Path

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def packed(self) -> Path:
        return self.root / "packed"

    def encoded(self, name: str) -> Path:
        return self.root / "encoded" / name

    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.base / "tokenizer")

    def loop(self, **changes: Any) -> dict[str, Any]:
        """The keys every training section of params.yaml has."""
        adamw = {"kind": "adamw", "lr": 0.01, "weight_decay": 0.0}
        return {
            "steps": 4,
            "log_every": 1,
            "eval_every": 0,
            "save_every": 0,
            "grad_clip": 1.0,
            "precision": "fp32",
            "optimizer": {"matrices": adamw, "rest": adamw},
            "schedule": {"kind": "cosine", "warmup_frac": 0.1},
            **changes,
        }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once; tests write elsewhere."""
    root = tmp_path_factory.mktemp("world")
    sets = {"sft": _conversations(), "preference": _pairs(), "prompts": _prompts()}
    algorithm = registry.build(
        from_dict(
            registry.module("llm.tokenizer.algorithms", "bpe").Config,
            {"vocab_size": 320, "min_frequency": 2, "special_tokens": []},
            "tokenizer",
        )
    )
    tokenizer = train_tokenizer(algorithm, [str(doc.data) for doc in _conversations()], root / "tok", "test")
    for name, documents in sets.items():
        for split in SPLITS:
            write_documents(root / "raw" / name / f"{split}.jsonl", documents)
        encode_set(name, root / "raw" / name, root / "tok", root / "encoded" / name)
    kinds = {"mix": {"kind": "none"}, "chunk": {"kind": "fixed"}, "strategy": {"kind": "best_fit"}}
    params = from_dict(PackParams, {"seq_len": 64, **kinds}, "pack")
    pack_set("sft", root / "encoded/sft/train", root / "packed", params, tokenizer=root / "tok", seed=0)
    save_model(root / "base", _decoder(tokenizer.vocab_size), stage="pretrain", tokenizer=root / "tok")
    return World(root)


def _decoder(vocab_size: int) -> Decoder:
    config = {
        "d_model": 32,
        "n_layers": 2,
        "max_len": 128,
        "tied_head": True,
        "mixer": {"kind": "gqa", "n_heads": 2, "n_kv_heads": 1},
        "ffn": {"kind": "swiglu", "d_ff": 64},
        "norm": {"kind": "rmsnorm"},
        "position": {"kind": "rope"},
        "init": {"kind": "gpt2", "std": 0.1},
    }
    torch.manual_seed(0)
    return Decoder(from_dict(ModelConfig, config, "model"), vocab_size)


def _document(number: int, kind: str, data: dict[str, Any]) -> Document:
    return Document(id=f"d{number}", source="test", kind=kind, licence="CC0", work=f"w{number}", data=data)


def _ask(thing: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What colour is the {thing}?"}]


def _conversations() -> list[Document]:
    """One question and answer each, and two turns for the first."""
    documents = []
    for number, (thing, colour) in enumerate(ANSWERS.items()):
        messages = [*_ask(thing), {"role": "assistant", "content": f"{colour}."}]
        if number == 0:
            messages += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes, blue."}]
        documents.append(_document(number, "chat" if number % 2 else "story", {"messages": messages}))
    return documents


def _pairs() -> list[Document]:
    """The chosen answer is polite, the rejected one is not; lengths differ."""
    documents: list[Document] = []
    for thing, colour in ANSWERS.items():
        for kind, chosen, rejected in (
            ("easy", f"Gladly, {colour}.", "No."),
            ("hard", f"Gladly, {colour}.", f"{colour}, go away now."),
        ):
            data = {"prompt": _ask(thing), "chosen": chosen, "rejected": rejected}
            documents.append(_document(len(documents), kind, data))
    return documents


def _prompts() -> list[Document]:
    rules: Iterable[tuple[str, dict[str, Any]]] = [
        ("words", {"kind": "words", "words": [colour], "min_words": 1, "max_words": 4})
        for colour in ANSWERS.values()
    ] + [("cloze", {"kind": "cloze", "answer": colour}) for colour in ANSWERS.values()]
    things = list(ANSWERS) * 2
    return [
        _document(number, kind, {"prompt": _ask(thing), "rule": rule})
        for number, ((kind, rule), thing) in enumerate(zip(rules, things, strict=True))
    ]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints of the test go to a folder of their own."""
    monkeypatch.setenv("LLM_WORK_DIR", str(tmp_path / "work"))
    return tmp_path
