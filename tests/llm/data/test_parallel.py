"""map_batches: in order, lazily, with equal results on any number of processes; dead workers, Ctrl-C, dask."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest

from llm import runtime
from llm.data import document, parallel
from llm.data import filter as filter_module
from llm.data.deduplicate import DedupParams, deduplicate_set
from llm.data.document import Document, write_documents
from llm.data.filter import FilterParams, filter_set
from llm.data.parallel import map_batches
from llm.params import from_dict
from llm.runtime import hash_files, write_json

ROOT = Path(__file__).resolve().parents[3]


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def slow_first(number: int) -> int:
    time.sleep(0.2 if number == 0 else 0.0)
    return number


def refuse(number: int, *, marks: Path) -> int:
    (marks / f"{number}-{time.time_ns()}").touch()
    if number == 3:
        raise ValueError("d.jsonl:3: not a document")
    return number


def die_once(number: int, *, mark: Path) -> int:
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number + 100


def die_always(number: int) -> int:
    time.sleep(
        0.1 if number == 0 else 0.0
    )  # the first batch is unfinished when the second one kills its process
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_WORKERS", "2")
    monkeypatch.delenv("LLM_DASK", raising=False)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_results_are_in_order_whatever_the_processes(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("LLM_WORKERS", workers)
    results = list(map_batches(square, range(12)))
    assert [square for square, _ in results] == [number**2 for number in range(12)]
    assert (os.getpid() in {pid for _, pid in results}) == (workers == "1")


def hold(megabytes: int) -> int:
    """Fill so much memory, and let it go."""
    return len(bytearray(b"x") * (megabytes << 20)) >> 20


def test_memory_of_the_workers_counts(two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_WORKERS", {"peak_bytes": 0})
    alone = runtime.peak_memory_bytes()
    assert list(map_batches(hold, [1, 1])) == [1, 1]
    before = runtime._WORKERS["peak_bytes"]
    assert list(map_batches(hold, [1, 400, 1])) == [1, 400, 1]
    assert runtime._WORKERS["peak_bytes"] > max(before, 400 << 20)
    assert runtime.peak_memory_bytes() >= alone + (400 << 20)
    assert list(map_batches(hold, [1, 1])) == [1, 1]
    assert runtime._WORKERS["peak_bytes"] > 400 << 20  # the largest pool of the stage


def test_a_slow_batch_holds_back_the_ones_after_it(two: None) -> None:
    assert list(map_batches(slow_first, range(5))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 1])
def test_no_process_is_started_for_one_batch(two: None, count: int) -> None:
    assert list(map_batches(square, range(count))) == [(0, os.getpid())][:count]


def test_no_more_batches_are_read_than_are_in_flight(two: None) -> None:
    seen = []

    def batches() -> Iterator[int]:
        for number in range(100):
            seen.append(number)
            yield number

    results = map_batches(square, batches())
    assert seen == []
    for taken in range(1, 4):
        next(results)
        assert len(seen) == 2 * parallel._AHEAD + taken
    results.close()


def test_an_exception_comes_through_as_itself_and_is_not_retried(two: None, tmp_path: Path) -> None:
    results = map_batches(partial(refuse, marks=tmp_path), range(50))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^d\.jsonl:3: not a document$"):
        next(results)
    started = [int(path.name.partition("-")[0]) for path in tmp_path.iterdir()]
    assert started.count(3) == 1
    assert max(started) <= 3 + 2 * parallel._AHEAD


def test_a_function_that_cannot_be_sent_is_an_error_at_once(two: None) -> None:
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        list(map_batches(lambda number: number, range(4)))


def test_what_a_killed_process_did_is_done_again(two: None, tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    assert list(map_batches(partial(die_once, mark=mark), range(8))) == list(range(100, 108))
    assert mark.exists()


def test_a_batch_that_always_kills_its_process_is_named(two: None) -> None:
    results = map_batches(die_always, range(8))
    assert next(results) == 0
    with pytest.raises(ValueError, match=r"^batch 2: its process was killed 3 times; .*lower LLM_WORKERS"):
        next(results)


STUCK = """
import os, signal, sys, time
from pathlib import Path
from llm.data.parallel import map_batches

def sleep(number):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    list(map_batches(sleep, range(4)))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    pids = tmp_path / "pids"
    pids.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LLM_WORKERS": "2"}
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "stuck.py"), str(pids)], env=env, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(list(pids.iterdir())) == 2)
    parent.send_signal(number)
    assert parent.wait(5) != 0
    wait_until(lambda: not any(alive(int(path.name)) for path in pids.iterdir()))


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


# ---------------------------------------------------------------- dask


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A scheduler with two worker processes that runs on its own, as a cluster does."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
    ) as running:
        yield running.scheduler_address
        parallel._client(running.scheduler_address).close()


@pytest.fixture
def dask(monkeypatch: pytest.MonkeyPatch, cluster: str) -> None:
    monkeypatch.setenv("LLM_DASK", cluster)
    monkeypatch.setenv("LLM_WORKERS", "1")


def test_dask_gives_the_same_in_the_same_order(dask: None) -> None:
    results = list(map_batches(square, range(12)))
    assert [square for square, _ in results] == [number**2 for number in range(12)]
    assert os.getpid() not in {pid for _, pid in results}


def test_dask_hands_exceptions_on(dask: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^d\.jsonl:3: not a document$"):
        list(map_batches(partial(refuse, marks=tmp_path), range(50)))


def test_dask_does_again_what_a_killed_worker_did(dask: None, tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    assert list(map_batches(partial(die_once, mark=mark), range(8))) == list(range(100, 108))
    assert mark.exists()


def test_dask_names_a_batch_that_always_kills(dask: None) -> None:
    from dask import config

    refused = pytest.raises(ValueError, match=r"^batch 2: the dask workers it ran on died each time")
    with config.set({"distributed.scheduler.allowed-failures": 1}), refused:
        list(map_batches(die_always, range(4)))


def test_no_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_PATIENCE_S", 0.2)
    monkeypatch.setenv("LLM_DASK", "tcp://127.0.0.1:9")
    with pytest.raises(
        ValueError, match=r"^LLM_DASK=tcp://127\.0\.0\.1:9: no scheduler with a worker answers"
    ) as info:
        list(map_batches(square, range(2)))
    assert "\n" not in str(info.value)


def test_no_dask_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setenv("LLM_DASK", "somewhere")
    with pytest.raises(ValueError, match=r"^LLM_DASK=somewhere: dask is not installed; pip install"):
        list(map_batches(square, range(2)))


# ---------------------------------------------------------------- the stages


WORDS = [
    "the",
    "hen",
    "and",
    "cat",
    "sat",
    "in",
    "yard",
    "of",
    "a",
    "warm",
    "day",
    "to",
    "old",
    "dog",
    "lake",
]


def text(seed: int) -> str:
    """Sixty words, in another order for every seed; every fifth text holds rare ones too."""
    draw = random.Random(seed)
    told = [draw.choice(WORDS) for _ in range(60)]
    return " ".join(told + ["".join(draw.choices("qxyz", k=9)) for _ in range(12 if seed % 5 == 0 else 0)])


def lay_out(folder: Path) -> None:
    texts = [text(i) for i in range(80)]
    texts += [
        f"{text(i)} {i}@yard.org" if i % 2 else text(i) for i in range(0, 80, 7)
    ]  # near and exact copies
    for split, chosen in (("train", texts), ("validation", texts[3:5])):
        documents = [
            Document(
                id=f"{split}{i}",
                source="s",
                kind=("chat", "tales")[i % 2],
                licence="PD",
                work=str(i),
                text=one,
            )
            for i, one in enumerate(chosen)
        ]
        write_documents(folder / f"{split}.jsonl", documents)


def clean(raw: Path, out: Path) -> str:
    """Dedup and filter, in small batches and with a fit between two passes."""
    dedup = from_dict(
        DedupParams,
        {"exact": {"kind": "exact"}, "near": {"kind": "minhash", "threshold": 0.7}}
        | {
            field.name: {"kind": "none"}
            for field in fields(DedupParams)
            if field.name not in ("exact", "near")
        },
        "dedup",
    )
    filters = from_dict(
        FilterParams,
        {field.name: {"kind": "none"} for field in fields(FilterParams)}
        | {"normalize": {}, "quality": {"kind": "quality"}, "privacy": {"kind": "pii"}}
        | {"simplicity": {"kind": "simplicity", "vocabulary": 18, "min_share": 0.9}},
        "filter",
    )
    deduplicated = deduplicate_set(raw, out / "dedup", out / "dropped" / "dedup", dedup)
    filtered = filter_set(out / "dedup", out / "clean", out / "dropped" / "filter", filters)
    assert deduplicated["train"]["dropped"]["docs"] > 5
    assert filtered["train"]["reasons"].keys() == {"not_simple"}
    assert filtered["edits"]["privacy"]["email"] > 0
    write_json(out / "metrics.json", [deduplicated, filtered])
    return hash_files(out)


def test_one_process_two_and_a_cluster_write_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: str
) -> None:
    lay_out(tmp_path / "raw")
    for module in (document, filter_module):
        monkeypatch.setattr(module, "BATCH_BYTES", 4000)
    hashes = []
    for name, workers, address in (("one", "1", ""), ("two", "2", ""), ("cluster", "1", cluster)):
        monkeypatch.setenv("LLM_WORKERS", workers)
        monkeypatch.setenv("LLM_DASK", address)
        hashes.append(clean(tmp_path / "raw", tmp_path / name))
    assert len(set(hashes)) == 1
