"""choice: of two replies to a conversation, does the model find the real one likelier? Chance is 1/2.

Equations   (1)-(3) in docs/eval/tasks/choice.md
Source      next-utterance selection: Lowe et al. 2015, arXiv 1506.08909; summed and length-normalised
            log-likelihood as in Brown et al. 2020, arXiv 2005.14165, section 2.4; mutual information:
            Holtzman et al. 2021, arXiv 2104.08315, section 3
Cost        two forward passes a candidate: reply after the prompt, and reply after an empty message
Differs     two candidates instead of ten or a hundred; the reply's end of turn is scored too
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.data.document import Document
from llm.eval.scoring import Row, score_rows
from llm.eval.tasks.base import BATCH_TOKENS, Record, Subject, Task, evenly, fit, validation
from llm.tokenizer.chat_template import render_completion

NOTHING_SAID = [{"role": "user", "content": ""}]  # the prompt that tells a reply's own likelihood


@dataclass(frozen=True, kw_only=True)
class Config:
    """n_examples: pairs of the preference validation set, evenly spaced; 0 = all."""

    n_examples: int = 0


class ReplyChoice(Task):
    """`accuracy`: by summed log-probability (1); `accuracy_per_token`: by its mean (2); `accuracy_pmi`: by what
    the prompt adds to it (3); `margin`: chosen minus rejected, in nats. A tie counts as wrong."""

    name = "choice"

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self, raw: Path) -> list[Document]:
        return evenly(validation(raw, "preference"), self.config.n_examples)

    def run(self, subject: Subject, examples: Sequence[Document]) -> list[Record]:
        rows, cuts = [], []
        for document in examples:
            for side in ("chosen", "rejected"):
                for prompt in (document.data["prompt"], NOTHING_SAID):
                    row, cut = _row(subject, prompt, document.data[side])
                    rows.append(row)
                    cuts.append(cut)
        label = f"eval {subject.name}: {self.name}"
        scores = score_rows(subject.model, rows, batch_tokens=BATCH_TOKENS, label=label)
        logps = [float(score.logps.sum()) for score in scores]
        return [
            _record(
                document,
                logps[i : i + 4],
                [row.n_scored for row in rows[i : i + 4 : 2]],
                max(cuts[i : i + 4]),
            )
            for document, i in zip(examples, range(0, len(rows), 4), strict=True)
        ]


def _record(document: Document, logps: list[float], n_tokens: list[int], n_cut: int) -> Record:
    """logps: of the chosen reply after its prompt and after nothing, then of the rejected one likewise."""
    chosen, chosen_alone, rejected, rejected_alone = logps
    return {
        "id": document.id,
        "kind": document.kind,
        "logp_chosen": chosen,
        "logp_rejected": rejected,
        "pmi_chosen": chosen - chosen_alone,
        "pmi_rejected": rejected - rejected_alone,
        "n_tokens": n_tokens,
        "n_cut": n_cut,
        "scores": {
            "accuracy": float(chosen > rejected),  # (1)
            "accuracy_per_token": float(chosen / n_tokens[0] > rejected / n_tokens[1]),  # (2)
            "accuracy_pmi": float(chosen - chosen_alone > rejected - rejected_alone),  # (3)
            "margin": chosen - rejected,
        },
    }


def _row(subject: Subject, prompt: list[dict[str, str]], reply: str) -> tuple[Row, int]:
    """Prompt and one reply as a row to score; a prompt too long for the model loses its oldest tokens."""
    ids, mask = render_completion(subject.tokenizer, prompt, reply)
    kept, cut = fit(ids, subject.model.config.max_len + 1)  # the last token is a target only
    return Row(kept, min(sum(mask), len(kept) - 1)), cut


build = ReplyChoice
