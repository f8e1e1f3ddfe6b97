"""choice: of two replies to a conversation, does the model find the real one likelier? Chance is 1/2.

Equations   (1)-(2) in docs/eval/tasks/choice.md
Source      next-utterance selection: Lowe et al. 2015, arXiv 1506.08909; summed and length-normalised
            log-likelihood as in Brown et al. 2020, arXiv 2005.14165, section 2.4
Cost        one forward pass over prompt and reply, twice an example
Differs     two candidates instead of ten or a hundred; the reply's end of turn is scored too
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.data.document import Document
from llm.eval.scoring import Row, score_rows
from llm.eval.tasks.base import BATCH_TOKENS, Record, Subject, Task, evenly, fit, validation
from llm.tokenizer.chat_template import render_completion


@dataclass(frozen=True, kw_only=True)
class Config:
    """n_examples: pairs of the preference validation set, evenly spaced; 0 = all."""

    n_examples: int = 0


class ReplyChoice(Task):
    """`accuracy`: by summed log-probability (1); `accuracy_per_token`: by its mean (2); `margin`: chosen minus
    rejected, in nats. A tie counts as wrong."""

    name = "choice"

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self, raw: Path) -> list[Document]:
        return evenly(validation(raw, "preference"), self.config.n_examples)

    def run(self, subject: Subject, examples: Sequence[Document]) -> list[Record]:
        rows, cuts = [], []
        for document in examples:
            for side in ("chosen", "rejected"):
                row, cut = _row(subject, document, side)
                rows.append(row)
                cuts.append(cut)
        label = f"eval {subject.name}: {self.name}"
        scores = score_rows(subject.model, rows, batch_tokens=BATCH_TOKENS, label=label)
        logps = [float(score.logps.sum()) for score in scores]
        records = []
        for i, document in enumerate(examples):
            chosen, rejected = logps[2 * i], logps[2 * i + 1]
            means = chosen / rows[2 * i].n_scored, rejected / rows[2 * i + 1].n_scored
            records.append(
                {
                    "id": document.id,
                    "kind": document.kind,
                    "logp_chosen": chosen,
                    "logp_rejected": rejected,
                    "n_tokens": [rows[2 * i].n_scored, rows[2 * i + 1].n_scored],
                    "n_cut": max(cuts[2 * i : 2 * i + 2]),
                    "scores": {
                        "accuracy": float(chosen > rejected),
                        "accuracy_per_token": float(means[0] > means[1]),
                        "margin": chosen - rejected,
                    },
                }
            )
        return records


def _row(subject: Subject, document: Document, side: str) -> tuple[Row, int]:
    """Prompt and one reply as a row to score; a prompt too long for the model loses its oldest tokens."""
    ids, mask = render_completion(subject.tokenizer, document.data["prompt"], document.data[side])
    kept, cut = fit(ids, subject.model.config.max_len + 1)  # the last token is a target only
    return Row(kept, min(sum(mask), len(kept) - 1)), cut


build = ReplyChoice
