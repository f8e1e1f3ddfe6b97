"""parallel: the same function over many batches, on the processes of this machine or of a cluster.

Results come back in the order of the batches, so the number of processes changes nothing but the time. Where
the work is done is a machine fact, never a parameter:

    LLM_WORKERS=4                   processes of this machine (default: its cores; 1: this process itself)
    LLM_DASK=local                  the same number of processes, as a dask cluster of this machine
    LLM_DASK=tcp://scheduler:8786   a dask cluster that runs already and where this project can be imported
"""

import atexit
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from multiprocessing import connection, get_context
from typing import Any, Generic, TypeVar

from llm.runtime import note_worker_memory, own_peak_bytes, workers

B = TypeVar("B")
R = TypeVar("R")

_AHEAD = 2  # batches given out for each process: enough that none idles, few enough that memory stays bounded
_ATTEMPTS = 3  # how often a batch may end its process when it runs alone
_PATIENCE_S = 10  # how long a scheduler may take to answer


def map_batches(function: Callable[[B], R], batches: Iterable[B]) -> Iterator[R]:
    """`function` of each batch, lazily and in order; it must be picklable: a module's function or a partial of one.

    Processes start with the second batch. A batch whose process was killed is done again; an exception that
    `function` raises comes through as itself, after the results of the batches before it.

    Raises:
        ValueError: a batch kills its process each time, or there is no dask to reach.
    """
    rest = iter(batches)
    head = list(islice(rest, 2))
    address = os.environ.get("LLM_DASK", "")
    if len(head) < 2 or (workers() == 1 and not address):
        yield from map(function, chain(head, rest))
        return
    crew: _Dask[B, R] | _Processes[B, R] = (
        _Dask(function, address) if address else _Processes(function, workers())
    )
    given = 0
    try:
        for batch in chain(head, rest):
            if given == crew.capacity:
                yield crew.take()
                given -= 1
            crew.give(batch)
            given += 1
        for _ in range(given):
            yield crew.take()
        crew.close()
    finally:  # also when the caller stops reading, or on Ctrl-C
        crew.stop()


# ---------------------------------------------------------------- processes of this machine


@dataclass
class _Done(Generic[R]):
    """A result, the process it comes from, and the most memory that process has held."""

    result: R
    process: int
    peak_bytes: int


@dataclass
class _Task(Generic[B, R]):
    number: int
    batch: B
    result: Future["_Done[R]"]

    def lost(self) -> bool:
        """Whether a process died before it was done."""
        return isinstance(self.result.exception(), BrokenProcessPool)


class _Processes(Generic[B, R]):
    """A pool whose processes hold the function from their start, so that only batches travel.

    capacity: batches that may be given before one is taken. Each process watches a pipe whose other end is held
    here alone: when it closes, by `stop` or because this process died of whatever cause, the worker ends.
    """

    def __init__(self, function: Callable[[B], R], n_processes: int) -> None:
        self.capacity = n_processes * _AHEAD
        self._function = function
        self._n_processes = n_processes
        self._tasks: deque[_Task[B, R]] = deque()
        self._given = 0
        self._start()

    def give(self, batch: B) -> None:
        self._given += 1
        self._tasks.append(_Task(self._given, batch, self._submit(batch)))

    def take(self) -> R:
        if self._tasks[0].lost():
            self._redo()
        done = self._tasks.popleft().result.result()
        self._peaks[done.process] = done.peak_bytes
        note_worker_memory(sum(self._peaks.values()))
        return done.result

    def close(self) -> None:
        """All was taken: let them end."""
        self._pool.shutdown()

    def stop(self) -> None:
        """End them now; does nothing after `close`."""
        self._held.close()
        self._pool.shutdown(cancel_futures=True)
        self._watched.close()

    def _start(self) -> None:
        context = get_context("forkserver")  # fork would copy the locks of threads that hold them
        self._peaks: dict[int, int] = {}  # of the processes of this pool
        self._watched, self._held = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            self._n_processes, context, initializer=_begin, initargs=(self._function, self._watched)
        )

    def _submit(self, batch: B) -> Future[_Done[R]]:
        try:
            return self._pool.submit(_work, batch)
        except BrokenProcessPool as error:  # a process died since the last result was taken
            return _failed(error)

    def _redo(self) -> None:
        """Do again what was lost, batch by batch: one that kills its process again is then known to be the one."""
        self._restart()
        for task in filter(_Task.lost, list(self._tasks)):
            attempts = 0
            while task.lost() and attempts < _ATTEMPTS:
                task.result = self._submit(task.batch)
                wait([task.result])
                attempts += 1
                if task.lost():
                    self._restart()
            if task.lost():
                task.result = _failed(
                    ValueError(
                        f"batch {task.number}: its process was killed {_ATTEMPTS} times; the system does so when "
                        "memory runs out (dmesg tells): lower LLM_WORKERS or free memory"
                    )
                )
                return  # the batches before it are given back first

    def _restart(self) -> None:
        self.stop()
        self._start()


def _failed(error: Exception) -> Future[Any]:
    result: Future[Any] = Future()
    result.set_exception(error)
    return result


_function: Callable[[Any], Any] | None = None  # in a worker: what it is there for


def _begin(function: Callable[[Any], Any], watched: connection.Connection) -> None:
    """In a new worker: keep the function, leave Ctrl-C to the parent, end when the pipe closes."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(watched,), daemon=True).start()


def _end_with(watched: connection.Connection) -> None:
    connection.wait([watched])
    os._exit(1)


def _work(batch: Any) -> _Done[Any]:
    assert _function is not None
    return _Done(_function(batch), os.getpid(), own_peak_bytes())


# ---------------------------------------------------------------- a dask cluster


class _Dask(Generic[B, R]):
    """The workers of a dask cluster; the function is sent to each once. Dask itself redoes what a dead one lost."""

    def __init__(self, function: Callable[[B], R], address: str) -> None:
        self._client = _client(address)
        self.capacity = sum(self._client.nthreads().values()) * _AHEAD
        # the result of a task, not scattered data: that is lost with the worker which holds it
        self._function = self._client.submit(_same, function, pure=False)
        self._tasks: deque[tuple[int, B, Any]] = deque()
        self._given = 0

    def give(self, batch: B) -> None:
        self._given += 1
        self._tasks.append((self._given, batch, self._submit(batch)))

    def take(self) -> R:
        from distributed import KilledWorker

        number, batch, task = self._tasks.popleft()
        try:
            try:
                return task.result()
            except (
                KilledWorker
            ):  # dask blames every batch that waited for a worker when it died: try this one alone
                return self._alone(batch)
        except KilledWorker as error:
            raise ValueError(
                f"batch {number}: the dask workers it ran on died each time ({error}); give them more memory"
            ) from None
        except CancelledError:
            raise ValueError(f"batch {number}: lost with the connection to the dask scheduler") from None

    def close(self) -> None:
        return None  # the cluster stays for the next call

    def stop(self) -> None:
        self._client.cancel([task for _, _, task in self._tasks])

    def _submit(self, batch: B) -> Any:
        return self._client.submit(_apply, self._function, batch, pure=False)

    def _alone(self, batch: B) -> R:
        from distributed import wait as wait_all

        wait_all([task for _, _, task in self._tasks])
        return self._submit(batch).result()


def _same(function: Callable[[B], R]) -> Callable[[B], R]:
    return function


def _apply(function: Callable[[B], R], batch: B) -> R:
    return function(batch)


@cache
def _client(address: str) -> Any:
    """Connect once in the life of this process. Raises ValueError when dask or the scheduler is missing."""
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError:
        raise ValueError(
            f"LLM_DASK={address}: dask is not installed; pip install 'llm-from-scratch[cluster]'"
        ) from None
    if address == "local":
        cluster = LocalCluster(
            n_workers=workers(), threads_per_worker=1, dashboard_address=None, memory_limit=0
        )
        atexit.register(cluster.close)
        client = Client(cluster)
    else:
        try:
            client = Client(address, timeout=_PATIENCE_S)
            client.wait_for_workers(1, timeout=_PATIENCE_S)
        except (OSError, TimeoutError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"LLM_DASK={address}: no scheduler with a worker answers ({reason}); start one, or unset LLM_DASK"
            ) from None
    atexit.register(client.close)
    return client
