"""rules: answers to prompts whose reward is code: given words in a story, a missing word, a sum.

Equations   docs/align/reward/rules.md
Source      verifiable rewards: Lambert et al. 2024, arXiv 2411.15124, section 6
Cost        `max_new_tokens` decoding steps a batch
Differs     nothing; `ended` also measures whether the model follows the chat template
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.align.reward.rules import score
from llm.data.document import Document
from llm.eval.tasks.base import Record, Subject, Task, complete, evenly, fit, validation
from llm.infer.sampling import SamplingParams
from llm.tokenizer.chat_template import render


@dataclass(frozen=True, kw_only=True)
class Config:
    """n_examples: prompts, evenly spaced; 0 = all. samples: answers to each. temperature 0: greedy."""

    n_examples: int = 0
    samples: int = 1
    max_new_tokens: int = 64
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be positive")


class RuleFollowing(Task):
    """`reward`: in [0, 1], by the prompt's own rule; `ended`: the answer closes its turn with <|im_end|> within
    the budget."""

    name = "rules"

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self, raw: Path) -> list[Document]:
        return evenly(validation(raw, "prompts"), self.config.n_examples)

    def run(self, subject: Subject, examples: Sequence[Document]) -> list[Record]:
        tokenizer, config = subject.tokenizer, self.config
        room = subject.model.config.max_len - config.max_new_tokens
        asked = [document for document in examples for _ in range(config.samples)]
        prompts = [render(tokenizer, d.data["prompt"], add_generation_prompt=True)[0] for d in asked]
        fitted = [fit(ids, room) for ids in prompts]
        answers = complete(
            subject,
            [ids for ids, _ in fitted],
            task=self.name,
            max_new_tokens=config.max_new_tokens,
            sampling=SamplingParams(temperature=config.temperature),
            stop_ids=(tokenizer.im_end_id, tokenizer.eot_id),
        )
        records = []
        for document, (_, cut), ids in zip(asked, fitted, answers, strict=True):
            ended = ids[-1] == tokenizer.im_end_id
            text = tokenizer.decode(ids, skip_special=True)
            prompt = document.data["prompt"][-1]["content"]
            reward = score(document.data["rule"], prompt, text, ended=ended)
            records.append(
                {
                    "id": document.id,
                    "kind": document.kind,
                    "prompt": prompt,
                    "answer": text,
                    "n_tokens": len(ids),
                    "n_cut": cut,
                    "scores": {"reward": reward, "ended": float(ended)},
                }
            )
        return records


build = RuleFollowing
