from pathlib import Path
from typing import Any

import pytest

from llm.data import encode
from llm.data.document import SPLITS, Document, write_documents
from llm.data.encode import encode_set
from llm.data.encoded import EncodedSet
from llm.tokenizer.algorithms import bpe, bpe_fast
from llm.tokenizer.algorithms.base import train_tokenizer
from llm.tokenizer.base import Tokenizer, load_tokenizer

USER, ANSWER = {"role": "user", "content": "Do ducks swim?"}, {"role": "assistant", "content": "Yes 🦆"}
RULE = {"kind": "words", "words": ["duck"], "min_words": 1, "max_words": 9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = bpe.Config(vocab_size=320, min_frequency=2, special_tokens=())
    path = tmp_path_factory.mktemp("encode") / "tokenizer"
    train_tokenizer(
        bpe.build(config), ["Do ducks swim? Yes, ducks swim.\nassistant\nuser\n" * 9], path, "corpus"
    )
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def document(name: str, text: Any = "", **data: object) -> Document:
    return Document(id=name, source="s", kind="chat", licence="MIT", work=name, text=text, data=data)


def encoded(tmp_path: Path, folder: Path, set_name: str, documents: list[Document]) -> EncodedSet:
    for split in SPLITS:
        write_documents(tmp_path / "raw" / f"{split}.jsonl", documents)
    encode_set(set_name, tmp_path / "raw", folder, tmp_path / "out")
    return EncodedSet.open(tmp_path / "out" / "train")


def test_pretrain(tmp_path: Path, folder: Path, tokenizer: Tokenizer) -> None:
    texts = ["ducks swim", "鸭子 <|endoftext|>", ""]
    found = encoded(tmp_path, folder, "pretrain", [document(f"d{i}", text) for i, text in enumerate(texts)])
    for index, text in enumerate(texts):
        ids = tokenizer.encode(text)
        assert found.doc(index).tolist() == [tokenizer.eot_id, *ids, tokenizer.eot_id]
        assert found.mask(index).tolist() == [0] + [1] * (len(ids) + 1)
        assert found.docs[index] == {"id": f"d{index}", "kind": "chat", "n_bytes": len(text.encode())}
    assert found.meta["tokenizer_hash"] == tokenizer.hash
    assert (found.meta["set"], found.meta["split"], found.meta["vocab_size"]) == (
        "pretrain",
        "train",
        tokenizer.vocab_size,
    )


def scored(found: EncodedSet, index: int, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(found.doc(index)[found.mask(index) == 1].tolist())


def test_sft(tmp_path: Path, folder: Path, tokenizer: Tokenizer) -> None:
    found = encoded(tmp_path, folder, "sft", [document("a", messages=[USER, ANSWER, USER, ANSWER])])
    assert scored(found, 0, tokenizer) == "Yes 🦆<|im_end|>Yes 🦆<|im_end|>"
    assert tokenizer.decode(found.doc(0).tolist()).startswith(
        "<|endoftext|><|im_start|>user\nDo ducks swim?<|im_end|>\n"
    )
    assert found.docs[0]["n_bytes"] == 2 * len("Yes 🦆".encode())


def test_preference(tmp_path: Path, folder: Path, tokenizer: Tokenizer) -> None:
    prompt = [USER, ANSWER, USER]
    found = encoded(
        tmp_path, folder, "preference", [document("a", prompt=prompt, chosen="Yes.", rejected="No")] * 2
    )
    assert len(found) == 4
    assert [record["side"] for record in found.docs] == ["chosen", "rejected"] * 2
    assert [record["n_bytes"] for record in found.docs] == [4, 2] * 2
    assert [scored(found, index, tokenizer) for index in (0, 1)] == ["Yes.<|im_end|>", "No<|im_end|>"]
    chosen, rejected = found.doc(0).tolist(), found.doc(1).tolist()
    n_prompt = len(chosen) - len(tokenizer.encode("Yes.")) - 1
    assert chosen[:n_prompt] == rejected[:n_prompt]
    assert tokenizer.decode(chosen[:n_prompt]).endswith("<|im_start|>assistant\n")


def test_prompts(tmp_path: Path, folder: Path, tokenizer: Tokenizer) -> None:
    found = encoded(tmp_path, folder, "prompts", [document("a", prompt=[USER], rule=RULE)])
    text = "<|endoftext|><|im_start|>user\nDo ducks swim?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(found.doc(0).tolist()) == text
    assert not found.loss_mask.any()
    assert found.docs[0] == {
        "id": "a",
        "kind": "chat",
        "n_bytes": 0,
        "rule": RULE,
        "prompt": "Do ducks swim?",
    }


def test_batches_change_nothing(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [document(f"d{i}", "ducks swim. " * (i % 7)) for i in range(40)]
    whole = encoded(tmp_path, folder, "pretrain", documents)
    before = [
        (tmp_path / "out" / "train" / name).read_bytes() for name in ("tokens.bin", "docs.jsonl", "meta.json")
    ]
    assert len(whole) == 40
    monkeypatch.setattr(encode, "_BATCH_CHARS", 50)
    encoded(tmp_path, folder, "pretrain", documents)
    after = [
        (tmp_path / "out" / "train" / name).read_bytes() for name in ("tokens.bin", "docs.jsonl", "meta.json")
    ]
    assert before == after


def test_report(tmp_path: Path, folder: Path, tokenizer: Tokenizer) -> None:
    for split, text in zip(SPLITS, ("ducks swim", "Yes"), strict=True):
        write_documents(tmp_path / "raw" / f"{split}.jsonl", [document("a", text), document("b", "")])
    report = encode_set("pretrain", tmp_path / "raw", folder, tmp_path / "out")
    n_tokens = len(tokenizer.encode("ducks swim"))
    assert report["train"] == {
        "n_docs": 2,
        "n_tokens": n_tokens + 4,
        "n_scored": n_tokens + 2,
        "n_bytes": 10,
        "longest_doc_tokens": n_tokens + 2,
        "bytes_per_token": 10 / (n_tokens + 2),
    }
    assert report["validation"]["n_bytes"] == 3


@pytest.mark.parametrize(
    ("set_name", "bad", "message"),
    [
        ("pretrain", document("bad", 3), "document 'bad': text is 3; give a string"),
        ("sft", document("bad"), "document 'bad': no key 'messages'"),
        (
            "sft",
            document("bad", messages=[{"role": "x", "content": ""}]),
            "document 'bad': chat template: message 0",
        ),
        ("sft", document("bad", messages="hello"), "document 'bad': "),
        ("preference", document("bad", prompt=[USER], chosen="x"), "document 'bad': no key 'rejected'"),
        (
            "preference",
            document("bad", prompt=[USER], chosen="x", rejected=7),
            "document 'bad': chat template: the answer is 7",
        ),
        ("prompts", document("bad", prompt=[USER]), "document 'bad': no key 'rule'"),
    ],
)
def test_documents_that_do_not_belong(
    tmp_path: Path, folder: Path, set_name: str, bad: Document, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        encoded(tmp_path, folder, set_name, [bad])
    assert str(caught.value).startswith(f"{tmp_path}/raw/train.jsonl: {message}")
    assert not (tmp_path / "out").exists()


def test_half_a_surrogate_pair(tmp_path: Path, folder: Path) -> None:
    line = '{"id": "bad", "source": "s", "kind": "k", "licence": "l", "work": "w", "text": "ab\\ud83d"}\n'
    for split in SPLITS:
        write_documents(tmp_path / "raw" / f"{split}.jsonl", [document("a", "fine")])
    (tmp_path / "raw" / "train.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"train.jsonl: document 'bad': .*surrogates not allowed"):
        encode_set("pretrain", tmp_path / "raw", folder, tmp_path / "out")


def test_empty_split_and_unknown_set(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="the train split of 'sft' is empty"):
        encoded(tmp_path, folder, "sft", [])
    with pytest.raises(ValueError, match="'novels' is not one of pretrain, sft, preference, prompts"):
        encoded(tmp_path, folder, "novels", [])
    with pytest.raises(ValueError, match="train.jsonl: no such file"):
        encode_set("sft", tmp_path / "nowhere", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_kinds_own_code_writes_the_same_bytes(tmp_path: Path) -> None:
    algorithm = bpe_fast.build(bpe_fast.Config(vocab_size=320, min_frequency=2, special_tokens=()))
    train_tokenizer(algorithm, ["Do ducks swim? Yes, ducks swim.\n" * 9], tmp_path / "tokenizer", "corpus")
    documents = [document(f"d{i}", "Do 鸭子 swim? " * (i % 7)) for i in range(40)]
    for split in SPLITS:
        write_documents(tmp_path / "raw" / f"{split}.jsonl", documents)
    for name, chosen in (("library", None), ("own", algorithm)):
        encode_set("pretrain", tmp_path / "raw", tmp_path / "tokenizer", tmp_path / name, chosen)
    files = [file.relative_to(tmp_path / "own") for file in (tmp_path / "own").rglob("*.*")]
    assert len(files) == 2 * 5
    for file in files:
        assert (tmp_path / "own" / file).read_bytes() == (tmp_path / "library" / file).read_bytes()


def test_a_tokenizer_of_another_kind(tmp_path: Path, folder: Path) -> None:
    algorithm = bpe_fast.build(bpe_fast.Config(vocab_size=320, min_frequency=2, special_tokens=()))
    with pytest.raises(
        ValueError, match=r"tokenizer: kind is 'bpe', params.yaml.tokenizer.kind is 'bpe_fast'; run"
    ):
        encode_set("pretrain", tmp_path / "raw", folder, tmp_path / "out", algorithm)
    assert not (tmp_path / "out").exists()
