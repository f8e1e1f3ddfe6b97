import itertools
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import registry
from llm.data import pack
from llm.data.encoded import EncodedSet, write_encoded
from llm.data.pack import PackParams
from llm.data.packed import PackedRows
from llm.params import ParamsError, from_dict

KINDS = registry.kinds("llm.data.packing")
Docs = list[tuple[list[int], list[int]]]


def params(seq_len: int, kind: str = "best_fit", **changes: dict[str, Any]) -> PackParams:
    kinds = {"mix": {"kind": "none"}, "chunk": {"kind": "fixed"}, "strategy": {"kind": kind}, **changes}
    return from_dict(PackParams, {"seq_len": seq_len, **kinds}, "pack")


def pack_set(set_name: str, source: Path, out: Path, params: PackParams, seed: int = 0) -> dict[str, Any]:
    return pack.pack_set(set_name, source, out, params, tokenizer=Path("no/tokenizer"), seed=seed)


def encode(folder: Path, docs: Docs, set_name: str) -> Path:
    records = [(ids, mask, {"id": str(i), "kind": "k", "n_bytes": 1}) for i, (ids, mask) in enumerate(docs)]
    write_encoded(folder, records, set_name=set_name, split="train", tokenizer_hash="ab", vocab_size=1 << 16)
    return folder


def numbered(lengths: list[int]) -> Docs:
    """Documents whose tokens all differ, so that a token tells where it came from; all but the first are scored."""
    starts = np.cumsum([0, *lengths[:-1]])
    return [
        (list(range(start, start + n)), [0] + [1] * (n - 1))
        for start, n in zip(starts.tolist(), lengths, strict=True)
    ]


def transitions(packed: PackedRows) -> list[tuple[int, int]]:
    """(context, target) of every scored token: what training sees."""
    rows, segments, mask = (
        np.asarray(array).astype(int) for array in (packed.rows, packed.segments, packed.mask)
    )
    found = []
    for row, column in zip(*np.nonzero(mask), strict=True):
        assert column > 0
        assert segments[row, column] == segments[row, column - 1] > 0
        found.append((rows[row, column - 1], rows[row, column]))
    return found


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(2, 30), min_size=1, max_size=20), seq_len=st.integers(1, 12))
def test_every_target_is_scored_exactly_once_after_its_own_context(
    tmp_path_factory: pytest.TempPathFactory, kind: str, lengths: list[int], seq_len: int
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    source = encode(folder / "encoded", numbered(lengths), "pretrain")
    report = pack_set("pretrain", source, folder / "packed", params(seq_len, kind))
    packed = PackedRows.open(folder / "packed")
    expected = [(ids[i], ids[i + 1]) for ids, _ in numbered(lengths) for i in range(len(ids) - 1)]
    assert sorted(transitions(packed)) == expected
    assert report["n_scored"] == len(expected)
    segments = np.asarray(packed.segments)
    assert report["fill_frac"] == (segments > 0).mean()
    assert packed.meta["fill_frac"] == pytest.approx(report["fill_frac"], rel=1e-5)  # JSON keeps six digits
    for row in segments.astype(int):  # 1, 1, 2, 2, 2, …, 0, 0: numbered without gaps, padding at the end
        real = row[: np.count_nonzero(row)]
        assert (real > 0).all()
        assert real[0] == 1
        assert set(np.diff(real)) <= {0, 1}


def test_a_row_by_hand(tmp_path: Path) -> None:
    docs = numbered([6, 3, 2])  # pieces 0-4, 4-5, 6-8, 9-10; rows of 5: 0-4 | 4-5 6-8 | 9-10
    source = encode(tmp_path / "encoded", docs, "pretrain")
    report = pack_set("pretrain", source, tmp_path / "packed", params(4))
    packed = PackedRows.open(tmp_path / "packed")
    # Longest first: 0-4 (5 tokens), 6-8 (3), then 4-5 into the 2 free places beside it, then 9-10.
    assert packed.rows.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [9, 10, 0, 0, 0]]
    assert packed.segments.tolist() == [[1, 1, 1, 1, 1], [1, 1, 2, 2, 2], [1, 1, 0, 0, 0]]
    assert packed.mask.tolist() == [[0, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 1, 0, 0, 0]]
    assert report == {
        "n_docs": 3,
        "n_tokens": 11,
        "n_long_docs": 1,
        "n_context_tokens": 1,
        "n_truncated_tokens": 0,
        "n_dropped_unscored": 0,
        "n_pieces": 4,
        "n_rows": 3,
        "n_scored": 8,
        "fill_frac": 12 / 15,
        "scored_frac": 8 / 12,
        "mix": {
            "k": {
                "n_tokens": 11,
                "wanted_tokens": 11,
                "read_tokens": 11,
                "epochs": 1.0,
                "read_frac": 1.0,
            }
        },
    }


def test_padding_is_zero_everywhere(tmp_path: Path) -> None:
    source = encode(tmp_path / "encoded", [([7, 8, 9], [0, 1, 1])], "pretrain")
    pack_set("pretrain", source, tmp_path / "packed", params(6))
    packed = PackedRows.open(tmp_path / "packed")
    assert packed.rows.tolist() == [[7, 8, 9, 0, 0, 0, 0]]
    assert packed.segments.tolist() == [[1, 1, 1, 0, 0, 0, 0]]
    assert packed.mask.tolist() == [[0, 1, 1, 0, 0, 0, 0]]


def test_sft_keeps_masks_truncates_and_drops(tmp_path: Path) -> None:
    docs: Docs = [
        ([10, 11, 12, 13], [0, 0, 1, 1]),
        ([20, 21, 22, 23, 24, 25, 26], [0, 1, 0, 0, 0, 1, 1]),  # loses 25 and 26
        ([30, 31, 32, 33, 34, 35], [0, 0, 0, 0, 0, 1]),  # its only target is cut off
        ([40, 41], [0, 0]),
        ([50, 51], [1, 1]),  # the first token has no context
    ]
    source = encode(tmp_path / "encoded", docs, "sft")
    report = pack_set("sft", source, tmp_path / "packed", params(4))
    packed = PackedRows.open(tmp_path / "packed")
    assert sorted(transitions(packed)) == [(11, 12), (12, 13), (20, 21), (50, 51)]
    assert sorted(np.asarray(packed.rows)[np.asarray(packed.segments) > 0].tolist()) == [
        10, 11, 12, 13, 20, 21, 22, 23, 24, 50, 51,
    ]  # fmt: skip
    assert (report["n_long_docs"], report["n_truncated_tokens"], report["n_dropped_unscored"]) == (2, 3, 2)
    assert (report["n_pieces"], report["n_scored"]) == (3, 4)


def test_documents_without_a_target_are_dropped_and_counted(tmp_path: Path) -> None:
    source = encode(tmp_path / "encoded", [([1], [0]), ([2, 3], [0, 1]), ([], [])], "pretrain")
    report = pack_set("pretrain", source, tmp_path / "packed", params(4))
    assert (report["n_dropped_unscored"], report["n_pieces"]) == (2, 1)


def test_chunks_of_rows_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).integers(2, 40, size=50).tolist()
    source = encode(tmp_path / "encoded", numbered(lengths), "pretrain")
    pack_set("pretrain", source, tmp_path / "a", params(16))
    monkeypatch.setattr(pack, "_ROWS_PER_CHUNK", 3)
    pack_set("pretrain", source, tmp_path / "b", params(16))
    for name in ("rows.bin", "segments.bin", "mask.bin", "meta.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_wide_tokens_stay_wide(tmp_path: Path) -> None:
    record = {"id": "x", "kind": "k", "n_bytes": 1}
    write_encoded(
        tmp_path / "encoded", [([0, 70_000], [0, 1], record)],
        set_name="pretrain", split="train", tokenizer_hash="ab", vocab_size=70_001,
    )  # fmt: skip
    pack_set("pretrain", tmp_path / "encoded", tmp_path / "packed", params(2))
    assert PackedRows.open(tmp_path / "packed").rows.tolist() == [[0, 70_000, 0]]


def test_errors(tmp_path: Path) -> None:
    source = encode(tmp_path / "encoded", [([1, 2], [0, 0])], "sft")
    with pytest.raises(
        ValueError, match="no scored token in the first 5 of any document; raise pack.seq_len"
    ):
        pack_set("sft", source, tmp_path / "packed", params(4))
    with pytest.raises(ValueError, match="meta.json: set is 'sft', expected 'pretrain'; fix --input"):
        pack_set("pretrain", source, tmp_path / "packed", params(4))
    assert not (tmp_path / "packed").exists()
    for seq_len in (0, 1 << 16):
        with pytest.raises(ParamsError, match=rf"seq_len \({seq_len}\) must be between 1 and 65534"):
            params(seq_len)


def test_five_million_tokens_in_seconds(tmp_path: Path) -> None:
    # About 2M tokens in 4,000 documents: 2/5 of the corpus that the limit of 5 s is about.
    lengths = np.random.default_rng(0).integers(2, 1000, size=4000).tolist()
    tokens = np.arange(1000, dtype=np.uint16)
    docs = [(tokens[:n], np.ones(n, dtype=np.uint8)) for n in lengths]
    source = encode(tmp_path / "encoded", docs, "pretrain")  # type: ignore[arg-type]
    t0 = time.process_time()
    report = pack_set("pretrain", source, tmp_path / "packed", params(256))
    assert time.process_time() - t0 < 2.0
    assert report["fill_frac"] > 0.999
    assert report["n_scored"] == sum(lengths) - len(lengths)
    assert EncodedSet.open(source).meta["n_tokens"] == sum(lengths) > 1_900_000


# ---------------------------------------------------------------- chunks, wrapped rows, mixtures


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=15), overlap=st.integers(0, 6))
def test_windows_that_overlap_score_every_target_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], overlap: int
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    source = encode(folder / "encoded", numbered(lengths), "pretrain")
    chunk = {"kind": "sliding", "overlap": overlap}
    report = pack_set("pretrain", source, folder / "packed", params(7, chunk=chunk))
    packed = PackedRows.open(folder / "packed")
    expected = [(ids[i], ids[i + 1]) for ids, _ in numbered(lengths) for i in range(len(ids) - 1)]
    assert sorted(transitions(packed)) == expected
    n_placed = int((np.asarray(packed.segments) > 0).sum())
    assert report["n_context_tokens"] == n_placed - sum(lengths)


def test_text_decides_where_a_document_is_cut(tmp_path: Path, world: Any) -> None:
    tokenizer = world.tokenizer()
    text = "One duck swims here. Two ducks swim there, and there. Three ducks sleep.\n\nThe end of the ducks."
    ids = [tokenizer.eot_id, *tokenizer.encode(text), tokenizer.eot_id]
    record = {"id": "d", "kind": "k", "n_bytes": len(text)}
    write_encoded(
        tmp_path / "e", [(ids, [0] + [1] * (len(ids) - 1), record)],
        set_name="pretrain", split="train", tokenizer_hash=tokenizer.hash, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    seq_len = len(tokenizer.encode("Two ducks swim there, and there. Three ducks sleep.")) + 3
    chunk = {"kind": "sentence"}
    folder = world.base / "tokenizer"
    pack.pack_set(
        "pretrain",
        tmp_path / "e",
        tmp_path / "p",
        params(seq_len, "next_fit", chunk=chunk),
        tokenizer=folder,
        seed=0,
    )
    packed = PackedRows.open(tmp_path / "p")
    rows = [tokenizer.decode(row[segments > 0].tolist(), skip_special=True)
            for row, segments in zip(np.asarray(packed.rows), np.asarray(packed.segments), strict=True)]  # fmt: skip
    starts = [row.lstrip()[:3] for row in rows]
    assert len(rows) > 1
    assert set(starts) <= {"One", "Two", "Thr", "The"}
    assert int(packed.mask.sum()) == len(ids) - 1
    stranger = encode(tmp_path / "stranger", numbered([90]), "pretrain")
    with pytest.raises(ValueError, match="made with tokenizer"):
        pack.pack_set("pretrain", stranger, tmp_path / "q", params(9, chunk=chunk), tokenizer=folder, seed=0)


def test_conversations_are_truncated_and_not_mixed_whatever_is_chosen(tmp_path: Path) -> None:
    source = encode(tmp_path / "encoded", numbered([30, 8, 5]), "sft")
    pack_set("sft", source, tmp_path / "a", params(9))
    chosen = params(9, chunk={"kind": "sentence"}, mix={"kind": "unimax", "total_frac": 3.0})
    report = pack_set("sft", source, tmp_path / "b", chosen)
    for name in ("rows.bin", "segments.bin", "mask.bin", "meta.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert report["n_truncated_tokens"] == 20
    assert "mix" not in report


def test_a_truncated_corpus_says_what_it_lost(tmp_path: Path) -> None:
    source = encode(tmp_path / "encoded", numbered([30, 8]), "pretrain")
    report = pack_set("pretrain", source, tmp_path / "packed", params(9, chunk={"kind": "truncate"}))
    assert (report["n_truncated_tokens"], report["n_scored"]) == (20, 9 + 7)


def test_wrapped_rows_by_hand(tmp_path: Path) -> None:
    source = encode(tmp_path / "encoded", numbered([3, 6, 2]), "pretrain")  # 0-2, 3-8, 9-10
    report = pack_set("pretrain", source, tmp_path / "packed", params(4, "wrapped"))
    packed = PackedRows.open(tmp_path / "packed")
    assert packed.rows.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [9, 10, 0, 0, 0]]
    assert packed.segments.tolist() == [[1, 1, 1, 2, 2], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert packed.mask.tolist() == [[0, 1, 1, 0, 1], [0, 1, 1, 1, 1], [0, 1, 0, 0, 0]]
    assert (report["n_context_tokens"], report["n_truncated_tokens"]) == (1, 0)


def test_mixed_documents_appear_as_often_as_reported(tmp_path: Path) -> None:
    lengths = [6] * 20 + [11] * 4
    docs = numbered(lengths)
    records = [
        (ids, mask, {"id": str(i), "kind": "long" if i >= 20 else "short", "n_bytes": 1})
        for i, (ids, mask) in enumerate(docs)
    ]
    write_encoded(
        tmp_path / "e", records, set_name="pretrain", split="train", tokenizer_hash="ab", vocab_size=1 << 16
    )
    chosen = params(5, mix={"kind": "weights", "weights": {"long": 1.0, "short": 1.0}})
    report = pack_set("pretrain", tmp_path / "e", tmp_path / "p", chosen)
    packed = PackedRows.open(tmp_path / "p")
    seen = Counter(transitions(packed))
    total = sum(lengths)  # 164: 82 of each kind, 13 short documents and 7 long ones
    assert report["mix"]["short"]["read_tokens"] == 78
    assert report["mix"]["long"]["read_tokens"] == 77
    assert (total, report["n_scored"]) == (164, 13 * 5 + 7 * 10)
    times = [{seen[(a, b)] for a, b in itertools.pairwise(ids)} for ids, _ in docs]
    assert sorted(n for once in times[:20] for n in once) == [0] * 7 + [1] * 13
    assert sorted(n for once in times[20:] for n in once) == [1, 2, 2, 2]  # a document is read whole or not
    again = pack_set("pretrain", tmp_path / "e", tmp_path / "again", chosen)
    assert again == report
    assert (tmp_path / "again/rows.bin").read_bytes() == (tmp_path / "p/rows.bin").read_bytes()
    pack_set("pretrain", tmp_path / "e", tmp_path / "other", chosen, seed=1)
    assert (tmp_path / "other/rows.bin").read_bytes() != (tmp_path / "p/rows.bin").read_bytes()


def test_choices_that_do_not_fit_together(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"chunk.overlap \(8\) must be less than seq_len \(8\)"):
        params(8, chunk={"kind": "sliding", "overlap": 8})
    with pytest.raises(
        ParamsError, match=r"chunk.kind \(sentence\) must be fixed: strategy wrapped cuts documents"
    ):
        params(8, "wrapped", chunk={"kind": "sentence"})
    source = encode(tmp_path / "encoded", numbered([30, 8]), "pretrain")
    with pytest.raises(ValueError, match="the mixture wants no document; raise pack.mix.total_frac"):
        pack_set("pretrain", source, tmp_path / "p", params(8, mix={"kind": "unimax", "total_frac": 0.1}))
