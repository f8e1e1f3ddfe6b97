"""model: a reward model: a decoder whose last hidden state is read by one linear score, in float32.

    models/reward/
      config.json, model.safetensors, tokenizer/   the decoder, as in every model folder
      head.safetensors                             weight [1, D] and bias [1] of the score

Equations   (1)-(3) in docs/align/reward/model.md; comments below carry the same numbers.
Source      Bradley & Terry 1952; Ouyang et al. 2022, arXiv 2203.02155, equation 1; centering: Eisenstein et
            al. 2023, arXiv 2312.09244, section 2
Cost        as one forward pass of the decoder, without its head
Differs     from the papers: nothing
Shapes      B rows, P pairs, T tokens, D d_model
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llm.nn.io import load_model, save_model
from llm.nn.model import Decoder
from llm.sft.rows import Row, padded


@dataclass(frozen=True)
class ScoreBatch:
    """Right-padded rows [B, T] and the index of each row's last token [B]; chosen rows first, then rejected."""

    tokens_BT: Tensor
    last_B: Tensor

    @property
    def count(self) -> int:
        return len(self.tokens_BT) // 2


class RewardModel(nn.Module):
    """Decoder and score; the decoder's own head is neither used nor trained."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.score = nn.Linear(decoder.config.d_model, 1, device=decoder.embedding.weight.device)
        nn.init.normal_(self.score.weight, std=1 / math.sqrt(decoder.config.d_model + 1))
        nn.init.zeros_(self.score.bias)
        if not decoder.config.tied_head:
            decoder.head.requires_grad_(False)

    def forward(self, batch: ScoreBatch) -> Tensor:
        """Reward of each row, [B], float32: the score of the state at its last token (1)."""
        h_BTD, _ = self.decoder.hidden(batch.tokens_BT)
        h_BD = h_BTD[torch.arange(len(h_BTD), device=h_BTD.device), batch.last_B]
        return F.linear(h_BD.float(), self.score.weight.float(), self.score.bias.float()).squeeze(-1)  # (1)


def bradley_terry(chosen_P: Tensor, rejected_P: Tensor, *, centering: float = 0.0) -> Tensor:
    """Loss of each pair, [P]: -log of the probability that the chosen answer wins (2), centred (3)."""
    loss_P = -F.logsigmoid(chosen_P - rejected_P)  # (2)
    if centering:
        loss_P = loss_P + centering * (chosen_P + rejected_P) ** 2  # (3)
    return loss_P


def score_batch(rows: Sequence[Row], max_len: int) -> ScoreBatch:
    """Rows, end token included, right-padded."""
    last_B = torch.tensor([len(row) - 1 for row in rows])
    tokens_BT = torch.zeros(len(rows), padded(int(last_B.max()) + 1, max_len), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens_BT[i, : len(row)] = torch.from_numpy(row.ids)
    return ScoreBatch(tokens_BT, last_B)


def save_reward_model(folder: Path, model: RewardModel, *, tokenizer: Path, extra: dict[str, Any]) -> None:
    """Write a model folder with the score beside it; call it inside `runtime.output_dir`."""
    save_model(folder, model.decoder, stage="reward", tokenizer=tokenizer, extra=extra)
    score = {"weight": model.score.weight, "bias": model.score.bias}
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in score.items()}
    save_file(tensors, folder / "head.safetensors", metadata={"format": "pt"})


def load_reward_model(folder: Path, *, device: str = "cpu") -> RewardModel:
    """Inverse of `save_reward_model`, in eval mode.

    Raises:
        ValueError: no reward model, or a damaged one.
    """
    model = RewardModel(load_model(folder, device=device))
    path = folder / "head.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {folder} is no reward model; run: dvc repro reward")
    try:
        tensors = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or truncated ({error}); run: dvc repro reward") from None
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = {"weight": tuple(model.score.weight.shape), "bias": (1,)}
    if found != expected:
        raise ValueError(f"{path}: holds {found}, expected {expected}; run: dvc repro reward")
    model.score.load_state_dict(tensors)
    return model.eval()
