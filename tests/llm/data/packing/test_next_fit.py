import numpy as np

from llm.data.packing import next_fit


def test_keeps_the_order_and_never_looks_back() -> None:
    rows_P = next_fit.build(next_fit.Config()).assign(np.array([5, 6, 2, 2, 10, 1]), 10)
    assert rows_P.tolist() == [0, 1, 1, 1, 2, 3]
