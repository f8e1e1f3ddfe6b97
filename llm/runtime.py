"""runtime: what every stage needs and no algorithm is about.

Seeds, atomic files and folders, progress bars, one-line errors, and machine facts (seconds, peak memory,
tokens per second), which are kept out of everything DVC hashes: they differ from run to run.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived and the work done so far has been saved."""


def work_dir() -> Path:
    """Scratch folder outside every DVC out: resumable training state, logs, machine facts."""
    return Path(os.environ.get("LLM_WORK_DIR", ".work"))


# ---------------------------------------------------------------- files


def round_floats(value: Any, digits: int = 6) -> Any:
    """Round every float in a JSON-able value to `digits` significant digits; NaN and inf become None."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: round_floats(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [round_floats(item, digits) for item in value]
    return value


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that appears under its name only when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def output_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that replaces it only when the block ends without error."""
    temporary = path.with_name(f".{path.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write deterministic JSON: sorted keys, six significant digits, no NaN, trailing newline."""
    with atomic_file(path) as handle:
        handle.write(
            json.dumps(round_floats(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        )
        handle.write("\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises ValueError naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run the stage that writes it (dvc repro)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged JSON ({error}); delete it and run dvc repro") from None


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a deterministic CSV for `dvc plots` (six significant digits; None becomes an empty cell)."""
    with atomic_file(path) as handle:
        handle.write(",".join(header) + "\n")
        for row in rows:
            cells = (round_floats(cell) for cell in row)
            handle.write(",".join("" if cell is None else str(cell) for cell in cells) + "\n")


def hash_files(*paths: Path) -> str:
    """SHA-256 over the names and bytes of files and folders, hexadecimal."""
    digest = hashlib.sha256()
    for root in paths:
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        for file in files:
            digest.update(file.relative_to(root).as_posix().encode())
            with open(file, "rb") as handle:
                while chunk := handle.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------- randomness and threads


def derive_seed(seed: int, *keys: int | str) -> int:
    """A 63-bit seed for one purpose: equal (seed, keys) give equal streams, different keys unrelated ones."""
    digest = hashlib.sha256(repr((seed, *keys)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def set_up_torch(seed: int) -> None:
    """Seed torch and fix what would make equal runs differ. Threads: LLM_THREADS, default all cores."""
    import torch

    _keep_freed_memory()
    torch.manual_seed(seed)
    threads = os.environ.get("LLM_THREADS")
    if threads:
        torch.set_num_threads(int(threads))
    torch.set_deterministic_debug_mode("warn")  # the longer-named twin imports the compiler: a second
    # No filling of fresh memory with NaN: what makes a tensor here writes all of it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _keep_freed_memory() -> None:
    """glibc: reuse freed blocks instead of returning them to the kernel, which would zero them again page by
    page for every large tensor (measured: a tenth of a CPU training step)."""
    if sys.platform != "linux":
        return
    import ctypes

    m_trim_threshold, m_mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to tune
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


def device_name() -> str:
    """The device to compute on: LLM_DEVICE, else cuda when present, else cpu. A machine fact, not a param."""
    if chosen := os.environ.get("LLM_DEVICE"):
        return chosen
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def workers() -> int:
    """Processes for data work: LLM_WORKERS, default the cores this process may use."""
    return int(os.environ.get("LLM_WORKERS", "0")) or len(os.sched_getaffinity(0))


# ---------------------------------------------------------------- progress, facts, stages


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar; where no terminal listens, with a plain line every 15 seconds."""
    from tqdm import tqdm

    seconds = 0.2 if sys.stderr.isatty() else 15.0
    bar = tqdm(
        items, desc=label, total=total, mininterval=seconds, delay=1.0, leave=False, dynamic_ncols=True
    )
    return iter(bar)


def record_facts(**facts: float | int | str) -> None:
    """Add machine facts of the running stage (they stay out of DVC); `llm report` shows them."""
    _FACTS.update(facts)


_FACTS: dict[str, float | int | str] = {}


def peak_memory_bytes() -> int:
    """Largest resident size of this process and its workers together, or of any child it waited for, in bytes.

    Each of them at its own peak, and pages that they share in each: never less than what the machine had to give.
    """
    return max(own_peak_bytes() + _WORKERS["peak_bytes"], _peak_bytes(resource.RUSAGE_CHILDREN))


def own_peak_bytes() -> int:
    """Largest resident size of this process alone, in bytes."""
    return _peak_bytes(resource.RUSAGE_SELF)


def note_worker_memory(n_bytes: int) -> None:
    """Remember what the workers that live at the same time have held together at most (llm/data/parallel.py)."""
    _WORKERS["peak_bytes"] = max(_WORKERS["peak_bytes"], n_bytes)


_WORKERS = {"peak_bytes": 0}


def _peak_bytes(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage script: one-line errors with exit code 2, 130 when interrupted, facts on success.

    Set LLM_DEBUG=1 for the traceback.
    """
    stage = os.environ.get("DVC_STAGE") or Path(sys.argv[0]).stem
    die_with_parent()
    t0 = time.monotonic()
    try:
        main()
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"{stage}: interrupted{f': {stop}' if str(stop) else ''}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if os.environ.get("LLM_DEBUG"):
            raise
        print(f"{stage}: {error}", file=sys.stderr)
        sys.exit(2)
    facts = {"seconds": time.monotonic() - t0, "peak_memory_bytes": peak_memory_bytes(), **_FACTS}
    with contextlib.suppress(OSError):  # facts are a courtesy; the result is already safe
        write_json(work_dir() / "facts" / f"{stage}.json", facts)


def die_with_parent() -> None:
    """Linux: send this process SIGTERM when dvc, which started it, dies, so that no trainer is orphaned.

    dvc runs a stage through `$SHELL -c`. bash replaces itself by the stage; dash stays between the two, and the
    kernel's parent-death signal then reports the shell's death only. So the shell's own parent is watched too.
    """
    if sys.platform != "linux" or "DVC_STAGE" not in os.environ:
        return  # started by hand: nohup and the like keep working
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    name, grandparent = _name_and_parent(os.getppid())
    if name.endswith("sh") and grandparent > 1:
        with contextlib.suppress(OSError):  # it died, or a kernel older than 5.3: nothing to watch with
            handle = os.pidfd_open(grandparent)
            threading.Thread(target=_terminate_after, args=(handle,), daemon=True).start()


def _name_and_parent(pid: int) -> tuple[str, int]:
    """Linux: the command name of a process and the id of its parent; ("", 0) when it is gone."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return "", 0
    return head.partition("(")[2], int(tail.split()[1])


def _terminate_after(pidfd: int) -> None:
    """Wait for the death of the process behind a pidfd, then ask this process to stop."""
    watch = select.poll()
    watch.register(pidfd, select.POLLIN)
    watch.poll()
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder`. Raises ValueError when another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another run is training here; wait for it or stop it") from None
        yield


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a flag: yields a function that tells whether one has arrived."""
    arrived: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, lambda number, _frame: arrived.append(number))
    try:
        yield lambda: bool(arrived)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
