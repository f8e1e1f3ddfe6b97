"""A made-up tree of metrics in the layouts the stages write. The numbers mean nothing."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

GAIN = {"base": 0.0, "sft": 0.06, "aligned": 0.11}
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


def estimate(value: float, se: float | None = 0.01, n: int = 400) -> dict[str, Any]:
    return {"value": value, "se": se, "n": n}


def evaluation(model: str) -> dict[str, Any]:
    up = GAIN[model]
    return {
        "bpb": {
            "bits_per_byte": {
                k: estimate(v - up / 5, 0.008, 180)
                for k, v in (("all", 1.497), ("chat", 1.41), ("tales", 1.66))
            }
        },
        "choice": {
            "accuracy": {
                k: estimate(v + up)
                for k, v in (("all", 0.61), ("easy", 0.68), ("hard", 0.55), ("story", 0.6))
            },
            "accuracy_per_token": {"all": estimate(0.58 + up)},
            "accuracy_pmi": {"all": estimate(0.57 + up)},
            "margin": {"all": estimate(1.9 + 10 * up, 0.4)},
        },
        "cloze": {
            "accuracy": {"all": estimate(0.09 + up / 4), "tales": estimate(0.09 + up / 4)},
            "n_cut_prompts": 3,
        },
        "rules": {
            "reward": {
                k: estimate(v + 2 * up, 0.012)
                for k, v in (("all", 0.11), ("cloze", 0.02), ("sums", 0.01), ("words", 0.3))
            },
            "ended": {"all": estimate(min(1.0, 0.02 + 15 * up), 0.0)},
        },
        "continuation": {
            "bleu": {"all": estimate(1.2 + up, None, 1)},
            "rouge_l": {"all": estimate(0.12 + up / 9)},
        },
    }


def funnel(n: int, reasons: dict[str, int], per: int = 3200) -> dict[str, Any]:
    gone = sum(reasons.values())
    return {
        "train": {
            "in": {"docs": n, "bytes": n * per},
            "kept": {"docs": n - gone, "bytes": (n - gone) * per},
            "dropped": {"docs": gone, "bytes": gone * per},
            "reasons": {reason: {"docs": count, "bytes": count * per} for reason, count in reasons.items()},
        },
        "validation": {"docs": 180, "bytes": 180 * per},
    }


def records(model: str) -> dict[str, list[dict[str, Any]]]:
    rules = [
        {
            "id": f"{kind}-{i}",
            "kind": kind,
            "prompt": f"Write a short story with the words fox, river & <moon>. ({kind} {i})",
            "answer": f"{model} says: the fox ran to the river {i}.\nThe end.",
            "scores": {"reward": 0.25 + GAIN[model] * 4, "ended": 1.0},
        }
        for kind in ("words", "sums")
        for i in range(4)
    ]
    story = {
        "id": "tale-1#0",
        "kind": "tales",
        "prompt": "Once upon a time there lived a poor woodcutter",
        "answer": f"who had {model}.",
        "reference": "who had two sons.",
        "scores": {"rouge_l": 0.2},
    }
    return {"rules": rules, "continuation": [story]}


def kind_numbers(docs: int, text_bytes: int, **changes: Any) -> dict[str, Any]:
    found = {
        "docs": docs,
        "bytes": text_bytes,
        "bytes_frac": 0.25,
        "words": 5000,
        "zipf_slope": -1.1,
        "heaps_beta": None,
        "doc_words": {"p50": 40.0},
        "repeated_ngrams_frac": {"3": 0.0212},
        "script_letters_frac": {"latin": 0.75, "han": 0.25, "other": 0.0},
        "top_words": [["the", 900], ["<b>", 450]],
        "top_ngrams": {"2": [["in the", 80, 0], ["of the", 20, 3]]},
    }
    return found | changes


def analysis() -> dict[str, Any]:
    raw = {"chat": kind_numbers(90, 9000), "poetry": kind_numbers(10, 3000), "all": kind_numbers(100, 12_000)}
    return {
        "corpora": {"raw": raw, "clean": raw | {"chat": kind_numbers(80, 8000, heaps_beta=0.5)}},
        "dropped": {
            "filter": {
                "too_short": {"chat": {"docs": 2, "bytes": 40, "median_words": 4.0}},
                "swearing": {k: {"docs": 4, "bytes": 480, "median_words": 4.0} for k in ("chat", "poetry")},
            }
        },
        "examples": {
            "filter": {
                "too_short": [
                    {
                        "id": "c/1",
                        "kind": "chat",
                        "text": "A: hi & <EMAIL>",
                        "facts": {"score": 2.0, "slot": "quality"},
                    }
                ]
            }
        },
    }


def curve_row(step: int) -> str:
    bpb = 1.5 + math.exp(-step / 120) if step % 100 == 0 else ""
    return f"{step},{2.9 + 5.4 * math.exp(-step / 90)},{bpb},{0.4 + 2 / step},{0.02 * math.cos(step / 700)}\n"


LOCK = """
schema: '2.0'
stages:
  download:
    outs:
    - path: data/raw/pretrain
      hash: md5
      md5: 0123abcd.dir
      size: 11040000
      nfiles: 2
    - path: metrics/download.json
      md5: ffff
      size: 3
"""


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def fake_tree(root: Path) -> Path:
    """Everything a finished pipeline leaves behind, as far as the report reads it."""
    m = root / "metrics"
    for model in GAIN:
        write(m / "eval" / f"{model}.json", evaluation(model))
        for task, rows in records(model).items():
            write(
                root / "data" / "records" / model / f"{task}.jsonl",
                "".join(json.dumps(r) + "\n" for r in rows),
            )
    for method, bits, change in (("rtn_int8", 8.25, 0.21), ("gptq_int4", 4.4, 1.94), ("removed", 2.0, 50.0)):
        write(
            m / "quantize" / f"{method}.json",
            {
                "size": {"bits_per_weight": bits, "bytes": int(4.2e6 * bits / 8), "times_smaller": 32 / bits},
                "bits_per_byte": {
                    "all": {
                        "before": 1.475,
                        "after": 1.475 * (1 + change / 100),
                        "change_percent": change,
                        "change_percent_se": 0.05,
                    }
                },
                "layers": {"max_error": 0.08},
            },
        )
    write(m / "dedup.json", funnel(3450, {"exact": 21, "near_duplicate": 64, "in_validation": 3}))
    write(m / "filter.json", funnel(3362, {"hard_words": 410, "too_short": 37, "profanity": 42, "html": 1}))
    write(m / "analyze.json", analysis())
    write(m / "tokenizer.json", {"vocab_size": 4096, "validation": {"bytes_per_token": 4.031}})
    write(m / "pack" / "pretrain.json", {"n_rows": 12_345, "fill_frac": 0.9874})
    write(
        m / "pretrain.json",
        {
            "params": 4_213_760,
            "flops_per_token": 31_457_280,
            "tokens": 3_000_000,
            "epochs": 0.94,
            "val_bpb": {"all": 1.502},
        },
    )
    write(
        m / "sft.json",
        {"trained_params": 4_213_760, "before": {"all": {"bpb": 1.9}}, "after": {"all": {"bpb": 1.61}}},
    )
    write(m / "reward.json", {"held_out": {"all": {"accuracy": 0.702, "accuracy_se": 0.02, "n": 500}}})
    write(
        m / "align.json",
        {
            "method": "dpo",
            "held_out": {
                "all": {"n": 500, "accuracy": {"before": 0.5, "after": 0.68, "gain": 0.18, "gain_se": 0.021}}
            },
        },
    )
    write(
        root / "plots" / "pretrain.csv",
        "step,loss,val_bpb,grad_norm,lr\n" + "".join(map(curve_row, range(10, 1010, 10))),
    )
    sft = "".join(f"{step},{2.5 + 1 / step},{2.6 + 1 / step}\n" for step in range(5, 60, 5))
    write(root / "plots" / "sft.csv", f"step,loss,val_loss\n{sft}")
    (root / "plots" / "analyze").mkdir()
    (root / "plots" / "analyze" / "zipf.png").write_bytes(PIXEL)
    for i, stage in enumerate(
        ("download", "dedup", "tokenizer", "pretrain", "sft", "eval@base", "quantize@rtn_int8", "brand_new")
    ):
        write(
            root / ".work" / "facts" / f"{stage}.json",
            {"seconds": 3.7 * 2**i, "peak_memory_bytes": 10**8 * (i + 2)},
        )
    write(
        root / ".work" / "facts" / "pretrain.json",
        {"seconds": 287.4, "peak_memory_bytes": 1.4e9, "tokens_per_s": 11034.5},
    )
    write(
        root / ".work" / "facts" / "quantize@rtn_int8.json",
        {"seconds": 21.0, "peak_memory_bytes": 9e8, "tokens_s": 812.0, "tokens_s_before": 640.0},
    )
    write(root / "dvc.lock", LOCK)
    write(root / "params.yaml", "quantize:\n  methods:\n  - rtn_int8\n  - gptq_int4\n")
    return root


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LLM_WORK_DIR", raising=False)
    return fake_tree(tmp_path)
