"""ranking: scores as integers that no two keys share, so that a choice of the best is the same in every form.

Which of several equal numbers `topk` returns depends on how many numbers there are. A token would then read other
keys in training (a long row) than in decoding (a cache), and equal scores are not rare: rectified ones are often 0.

Idea        docs/nn/kernels/ranking.md: the bits of the float32 score, made monotone, with the position behind them
Source      this project
Cost        O(S) a query
Shapes      S keys in the last dimension
"""

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int64).min  # below every rank: for what must not be chosen


def ranks(scores: Tensor) -> Tensor:
    """int64 numbers in the order of the scores, rounded to float32; of equal scores the later key is higher."""
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # of negative floats larger bits mean less
    return (ordered.long() << 32).add_(torch.arange(scores.shape[-1], device=scores.device))
