"""A model folder small enough to make in a test: two layers, 280 tokens, random weights."""

from pathlib import Path

import pytest
import torch

from llm.nn.io import save_model
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict
from llm.runtime import output_dir
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.algorithms.bpe import BytePairEncoding, Config

VOCAB = 280
SHAPE = {
    "d_model": 16,
    "n_layers": 2,
    "max_len": 96,
    "tied_head": True,
    "mixer": {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2},
    "ffn": {"kind": "swiglu", "d_ff": 24},
    "norm": {"kind": "rmsnorm"},
    "position": {"kind": "rope"},
    "init": {"kind": "gpt2", "std": 0.2},
}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "tokenizer"
    algorithm = BytePairEncoding(Config(vocab_size=VOCAB, min_frequency=1, special_tokens=()))
    with output_dir(folder) as temporary:
        train_tokenizer(
            algorithm, ["the old wizard and the young witch", "user assistant hello"], temporary, "test"
        )
    return folder


@pytest.fixture(scope="session")
def model_folder(tokenizer_folder: Path) -> Path:
    """`models/tiny` of a scratch folder, with its own copy of the tokenizer."""
    torch.manual_seed(0)
    folder = tokenizer_folder.parent / "models" / "tiny"
    model = Decoder(from_dict(ModelConfig, SHAPE, "test"), vocab_size=VOCAB)
    with output_dir(folder) as temporary:
        save_model(temporary, model, stage="sft", tokenizer=tokenizer_folder)
    return folder
