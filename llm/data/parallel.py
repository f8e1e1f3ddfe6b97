"""parallel: the same function over many batches, on as many processes as this machine has.

Results come back in the order of the batches, so the number of processes changes nothing but the time. How
many there are is a machine fact (`LLM_WORKERS`), never a parameter.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from llm.runtime import workers

B = TypeVar("B")
R = TypeVar("R")

_AHEAD = 2  # batches waiting for each process: enough that none idles, few enough that memory stays bounded


def map_batches(function: Callable[[B], R], batches: Iterable[B]) -> Iterator[R]:
    """`function` of each batch, lazily and in order. It must be picklable: a module-level function or a partial."""
    n_workers = workers()
    if n_workers == 1:
        yield from map(function, batches)
        return
    with ProcessPoolExecutor(n_workers, mp_context=get_context("forkserver")) as pool:
        waiting: deque[Future[R]] = deque()
        for batch in batches:
            waiting.append(pool.submit(function, batch))
            if len(waiting) >= n_workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
