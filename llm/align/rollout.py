"""rollout: prompts -> completions of the policy, with their log-probabilities and rewards.

A rollout remembers the log-probabilities the sampler itself saw. They are those of the behaviour policy,
so the ratio to them is right even where sampling and training compute in slightly different ways.

Shapes      B sequences, T tokens
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.align.reward import rules
from llm.data.encoded import EncodedSet, check_tokenizer
from llm.infer.generate import generate
from llm.infer.sampling import SamplingParams
from llm.nn.model import Decoder
from llm.runtime import atomic_file, read_json
from llm.sft.rows import Row
from llm.tokenizer.base import Tokenizer

BATCH = 128  # sequences generated together; bounds the memory of the decoding state


@dataclass(frozen=True)
class Prompt:
    """ids end with the generation prompt; text is what the user says; rule is how answers are rewarded."""

    ids: list[int]
    text: str
    rule: dict[str, Any]
    kind: str


@dataclass(frozen=True)
class Rollout:
    """One answer. prompt: its tokens; tokens: the answer's, the end token included when `ended`."""

    prompt: list[int]
    tokens: list[int]
    logps: list[float]
    ended: bool
    reward: float

    def row(self) -> Row:
        """Prompt and answer as one row whose answer is scored."""
        mask = np.zeros(len(self.prompt) + len(self.tokens), dtype=bool)
        mask[len(self.prompt) :] = True
        return Row(np.array(self.prompt + self.tokens, dtype=np.int64), mask)


def read_prompts(folder: Path, tokenizer: Tokenizer, kinds: Sequence[str]) -> list[Prompt]:
    """The prompts of the given kinds in an encoded prompts split.

    Raises:
        ValueError: other tokenizer, or a kind that has no prompt.
    """
    data = EncodedSet.open(folder)
    check_tokenizer(data.meta, tokenizer.hash, folder)
    known = sorted({doc["kind"] for doc in data.docs})
    for kind in kinds:
        if kind not in known:
            raise ValueError(
                f"align.grpo.kinds: {kind!r} has no prompts in {folder}; kinds are {', '.join(known)}"
            )
    prompts = []
    for i, doc in enumerate(data.docs):
        if doc["kind"] in kinds:
            ids = [int(token) for token in data.doc(i)]
            prompts.append(Prompt(ids, doc["prompt"], doc["rule"], doc["kind"]))
    return prompts


def roll_out(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    sampling: SamplingParams,
    seed: int,
) -> list[Rollout]:
    """One answer to each prompt, sampled and rewarded; equal arguments and weights give equal answers."""
    generator = torch.Generator().manual_seed(seed)
    training = model.training
    model.eval()
    rollouts = []
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        out = generate(
            model,
            [prompt.ids for prompt in some],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_ids={tokenizer.im_end_id, tokenizer.eot_id},
            generator=generator,
        )
        for prompt, tokens, logps, ended in zip(some, out.tokens, out.logps, out.finished, strict=True):
            text = tokenizer.decode(tokens, skip_special=True)
            reward = rules.score(prompt.rule, prompt.text, text, ended=ended)
            rollouts.append(Rollout(prompt.ids, tokens, logps, ended, reward))
    model.train(training)
    return rollouts


def pad_logps(rollouts: Sequence[Rollout], width: int) -> Tensor:
    """The sampler's log-probabilities at the place of their target, [B, T] with T = `width`; 0 elsewhere."""
    out_BT = torch.zeros(len(rollouts), width)
    for i, rollout in enumerate(rollouts):
        start = len(rollout.prompt) - 1  # the target of input position t is token t + 1
        out_BT[i, start : start + len(rollout.tokens)] = torch.tensor(rollout.logps)
    return out_BT


def save_rollouts(path: Path, rollouts: Sequence[Rollout]) -> None:
    """Write rollouts as JSON, exactly: a resumed run must see the very same numbers."""
    with atomic_file(path) as handle:
        json.dump([asdict(rollout) for rollout in rollouts], handle)


def load_rollouts(path: Path) -> list[Rollout]:
    """Inverse of `save_rollouts`."""
    return [Rollout(**record) for record in read_json(path)]
