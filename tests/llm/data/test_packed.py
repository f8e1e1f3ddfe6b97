from pathlib import Path

import numpy as np
import pytest
import torch

from llm.data.encoded import write_encoded
from llm.data.pack import PackParams, pack_set
from llm.data.packed import PackedRows, RowSource
from llm.nn.ffn import swiglu
from llm.nn.init import gpt2
from llm.nn.mixers import gqa
from llm.nn.model import Decoder, ModelConfig
from llm.nn.norm import rmsnorm
from llm.nn.objective import next_token_loss
from llm.nn.position import rope
from llm.params import from_dict

LENGTHS = [5, 9, 3, 7, 2, 9, 4, 6, 3, 8]
SEQ_LEN = 12


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedRows:
    folder = tmp_path_factory.mktemp("packed")
    generator = np.random.default_rng(0)
    docs = [
        (
            generator.integers(1, 50, n).tolist(),
            [0] + [1] * (n - 1),
            {"id": str(i), "kind": "k", "n_bytes": n},
        )
        for i, n in enumerate(LENGTHS)
    ]
    write_encoded(folder / "e", docs, set_name="pretrain", split="train", tokenizer_hash="ab", vocab_size=50)
    kinds = {"mix": {"kind": "none"}, "chunk": {"kind": "fixed"}, "strategy": {"kind": "best_fit"}}
    params = from_dict(PackParams, {"seq_len": SEQ_LEN, **kinds}, "pack")
    pack_set("pretrain", folder / "e", folder / "p", params, tokenizer=folder, seed=0)
    return PackedRows.open(folder / "p")


def source(packed: PackedRows, rows_per_step: int = 2, micro_rows: int = 1, seed: int = 7) -> RowSource:
    return RowSource(packed, seed=seed, rows_per_step=rows_per_step, micro_rows=micro_rows)


def test_open(packed: PackedRows) -> None:
    assert (packed.n_rows, packed.seq_len) == (len(packed.rows), SEQ_LEN)
    assert packed.rows.shape == packed.segments.shape == packed.mask.shape == (packed.n_rows, SEQ_LEN + 1)
    assert packed.n_rows == 5  # 56 tokens, 13 a row


def test_batch_is_the_row_shifted_by_one(packed: PackedRows) -> None:
    batch = packed.batch(np.arange(packed.n_rows))
    rows, segments = torch.from_numpy(packed.rows.astype(int)), torch.from_numpy(packed.segments.astype(int))
    assert batch.tokens_BT.dtype == batch.targets_BT.dtype == torch.int64
    assert torch.equal(batch.tokens_BT, rows[:, :-1])
    assert torch.equal(batch.targets_BT, rows[:, 1:])
    assert torch.equal(batch.segments_BT, segments[:, :-1])
    assert batch.mask_BT.dtype == torch.bool
    assert batch.count == sum(LENGTHS) - len(LENGTHS)
    crossing = segments[:, 1:] != segments[:, :-1]
    assert crossing.any()
    assert not batch.mask_BT[crossing].any()
    assert not batch.mask_BT[segments[:, 1:] == 0].any()


def test_a_mask_that_crosses_documents_is_not_believed(packed: PackedRows) -> None:
    careless = PackedRows(packed.folder, packed.meta, packed.rows, packed.segments, np.ones_like(packed.mask))
    batch = careless.batch(np.arange(packed.n_rows))
    assert batch.count == sum(LENGTHS) - len(LENGTHS)


def test_every_epoch_reads_every_row_once_in_another_order(packed: PackedRows) -> None:
    rows = np.concatenate([source(packed, rows_per_step=2).rows(step) for step in range(10)])
    epochs = rows.reshape(4, packed.n_rows)  # 20 rows: steps cross the borders of epochs of 5
    assert all(sorted(epoch) == list(range(packed.n_rows)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_pure_function_of_seed_and_step(packed: PackedRows) -> None:
    forwards = source(packed)
    first = [forwards.rows(step).tolist() for step in range(12)]
    backwards = source(packed)
    assert [backwards.rows(step).tolist() for step in reversed(range(12))] == first[::-1]
    assert source(packed).rows(9).tolist() == first[9]
    assert [source(packed, seed=8).rows(step).tolist() for step in range(12)] != first


def test_a_step_larger_than_the_corpus(packed: PackedRows) -> None:
    rows = source(packed, rows_per_step=13).rows(1)  # places 13 to 25: three epochs
    assert len(rows) == 13
    assert sorted(rows[2:7].tolist()) == list(range(5))


@pytest.mark.parametrize(("micro_rows", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_micro_batches_are_the_step_cut_up(packed: PackedRows, micro_rows: int, sizes: list[int]) -> None:
    parts = source(packed, rows_per_step=5, micro_rows=micro_rows).micro_batches(3)
    [whole] = source(packed, rows_per_step=5, micro_rows=5).micro_batches(3)
    assert [len(part.tokens_BT) for part in parts] == sizes
    for name in ("tokens_BT", "targets_BT", "mask_BT", "segments_BT"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def decoder() -> Decoder:
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=16, n_layers=2, max_len=32, tied_head=True,
        mixer=gqa.Config(n_heads=2, n_kv_heads=1), ffn=swiglu.Config(d_ff=24),
        norm=from_dict(rmsnorm.Config, {"eps": 1e-6}, "norm"),
        position=from_dict(rope.Config, {"base": 10000.0}, "position"), init=from_dict(gpt2.Config, {}, "init"),
    )  # fmt: skip
    return Decoder(config, 50).double()


def test_packed_loss_is_the_sum_over_documents_alone(packed: PackedRows) -> None:
    model = decoder()
    whole = next_token_loss(model, packed.batch(np.arange(packed.n_rows)))
    generator = np.random.default_rng(0)
    alone = 0.0
    for n in LENGTHS:
        ids = torch.from_numpy(generator.integers(1, 50, n))[None]
        logps = torch.log_softmax(model(ids[:, :-1]).float(), -1)
        alone -= float(logps.gather(-1, ids[:, 1:, None]).sum().detach())
    assert whole.count == sum(LENGTHS) - len(LENGTHS)
    assert float(whole.sum.detach()) == pytest.approx(alone, rel=1e-6)


def test_another_text_in_one_document_leaves_the_others_as_they_are(packed: PackedRows) -> None:
    model = decoder()
    batch = packed.batch(np.arange(packed.n_rows))
    full = [row for row in range(packed.n_rows) if batch.segments_BT[row].max() > 1]
    assert len(full) > 2
    for row in full:
        tokens, segments = batch.tokens_BT[row : row + 1], batch.segments_BT[row : row + 1]
        for changed in range(1, int(segments.max()) + 1):
            others = torch.where(segments == changed, (tokens + 7) % 50, tokens)
            before, after = model(tokens, segments), model(others, segments)
            assert torch.equal(before[segments != changed], after[segments != changed])
            assert (before[segments == changed] - after[segments == changed]).abs().min() > 0


@pytest.mark.parametrize("name", ["rows.bin", "segments.bin", "mask.bin"])
def test_truncated_and_missing_files(packed: PackedRows, tmp_path: Path, name: str) -> None:
    for file in packed.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(
        ValueError, match=rf"{name}: \d+ bytes, meta.json says \d+ .*run: dvc repro pack@pretrain"
    ):
        PackedRows.open(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name}: no such file; run: dvc repro pack@pretrain"):
        PackedRows.open(tmp_path)


def test_missing_folder_and_an_encoded_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="meta.json: no such file; run: dvc repro pack"):
        PackedRows.open(tmp_path)
    (tmp_path / "meta.json").write_text('{"n_docs": 3}')
    with pytest.raises(ValueError, match="no key 'n_rows', not written by stage pack"):
        PackedRows.open(tmp_path)


def test_bad_row_counts(packed: PackedRows) -> None:
    with pytest.raises(ValueError, match=r"rows_per_step \(0\) and micro_rows \(1\) must be positive"):
        source(packed, rows_per_step=0)
