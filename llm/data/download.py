"""download: one source of text -> the four raw sets, split by whole works.

pretrain     the texts themselves
sft          conversations to learn replies from: chats, stories, prompts with rules
preference   (prompt, chosen, rejected)
prompts      prompts whose answers a rule can score

Every set respects one split: what belongs to a validation work never feeds a train file. All four are
made in scratch folders and appear together; an error leaves what was there before.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from llm import registry
from llm.data.document import SPLITS, Document, read_documents, write_documents
from llm.data.sources.base import ReadySet, Source, is_chat
from llm.data.tasks.chat import ChatParams
from llm.data.tasks.rules import RuleParams, vocabulary
from llm.data.tasks.sets import Pool, PreferenceParams, PromptsParams, SetMaker, SftParams
from llm.data.tasks.story import StoryParams
from llm.params import Family
from llm.runtime import output_dir, progress, work_dir

SETS = ("pretrain", "sft", "preference", "prompts")

# Tasks are made of at most so many conversations and stories of each split, chosen by hash: a corpus of
# millions of documents must not be held in memory to make some thousand examples.
TASK_DOCUMENTS = 10_000


@dataclass(frozen=True, kw_only=True)
class DownloadParams:
    """validation_frac: share of the works of each kind that is held out, at least one work."""

    source: Annotated[Any, Family("llm.data.sources", nested=True)]
    validation_frac: float
    chat: ChatParams
    story: StoryParams
    rules: RuleParams
    sft: SftParams
    preference: PreferenceParams
    prompts: PromptsParams

    def __post_init__(self) -> None:
        if not 0 < self.validation_frac < 1:
            raise ValueError(f"validation_frac ({self.validation_frac}) must lie between 0 and 1")


def download(params: DownloadParams, *, seed: int, out: Path) -> dict[str, Any]:
    """Write `out`/{pretrain,sft,preference,prompts}/{train,validation}.jsonl; returns the metrics.

    Raises:
        ValueError: the source fails, yields nothing, or a set would be empty. Nothing is written then.
    """
    source: Source = registry.build(params.source)
    everything = work_dir() / "download" / "all.jsonl"
    with contextlib.ExitStack() as stack:
        stack.callback(everything.unlink, missing_ok=True)
        held_out = _spool(source, everything, seed=seed, validation_frac=params.validation_frac)
        folders = {name: stack.enter_context(output_dir(out / name)) for name in SETS}
        report = Report(folders)
        pools = {split: Pool() for split in SPLITS}
        for split in SPLITS:
            documents = (d for d in read_documents(everything) if _side(d, held_out) == split)
            report.write("pretrain", split, _pooling(progress(documents, split), pools[split]))
        report.missing = _derived_sets(params, seed, source, pools, report)
    return report.metrics(source)


def _derived_sets(
    params: DownloadParams, seed: int, source: Source, pools: dict[str, Pool], report: "Report"
) -> dict[str, int]:
    """Write the sft, preference and prompts sets; returns what the corpus could not give."""
    words = vocabulary(pools["train"].texts(), params.rules)
    sft = _ready(source, "sft", params, seed)
    preference = _ready(source, "preference", params, seed)
    missing: dict[str, int] = {}
    for split in SPLITS:
        maker = SetMaker(
            seed=seed,
            split=split,
            pool=pools[split],
            vocabulary=words,
            chat=params.chat,
            story=params.story,
            rules=params.rules,
            missing=missing,
        )
        report.write("sft", split, maker.sft(getattr(params.sft, split), sft[split]))
        report.write(
            "preference", split, maker.preference(getattr(params.preference, split), preference[split])
        )
        report.write("prompts", split, maker.prompts(getattr(params.prompts, split)))
    return missing


# ---------------------------------------------------------------- split


def held_out_works(works: Iterable[tuple[str, str]], *, seed: int, validation_frac: float) -> set[str]:
    """The validation works among (kind, work) pairs: of each kind the first `validation_frac` by hash.

    The order is that of sha256(f"{seed}:{work}"): it depends on nothing but the name of the work. At least
    one work of a kind is held out, and at least one is left to train on.
    """
    by_kind: dict[str, set[str]] = {}
    for kind, work in works:
        by_kind.setdefault(kind, set()).add(work)
    held_out: set[str] = set()
    for members in by_kind.values():
        count = min(max(1, round(validation_frac * len(members))), len(members) - 1)
        held_out.update(sorted(members, key=lambda work: _digest(f"{seed}:{work}"))[:count])
    return held_out


def _spool(source: Source, path: Path, *, seed: int, validation_frac: float) -> set[str]:
    """Write all documents of the source to a scratch file; returns the validation works."""
    works: set[tuple[str, str]] = set()

    def noted() -> Iterator[Document]:
        for document in progress(source.documents(), "documents"):
            works.add((document.kind, document.work))
            yield document

    if not write_documents(path, noted()):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted((+source.skipped).items()))
        raise ValueError(
            f"download.source: no document is left ({reasons or 'the source is empty'}); widen its options"
        )
    held_out = held_out_works(works, seed=seed, validation_frac=validation_frac)
    if not held_out:
        raise ValueError(
            "download.source: found one work only, which cannot be split into train and validation; "
            "add another file, or name the separator between documents"
        )
    return held_out


def _ready(
    source: Source, name: ReadySet, params: DownloadParams, seed: int
) -> dict[str, list[Document] | None]:
    """The source's ready-made documents by split, or None for both where it has none."""
    documents = source.ready(name)
    if documents is None:
        return dict.fromkeys(SPLITS)
    members = list(progress(documents, name))
    works = [(document.kind, document.work) for document in members]
    held_out = held_out_works(works, seed=seed, validation_frac=params.validation_frac)
    return {split: [d for d in members if _side(d, held_out) == split] for split in SPLITS}


def _side(document: Document, held_out: set[str]) -> str:
    return "validation" if document.work in held_out else "train"


def _pooling(documents: Iterable[Document], pool: Pool) -> Iterator[Document]:
    """Pass documents on without their turns (the text says the same); keep a sample of them for the tasks."""
    for document in documents:
        members = pool.chats if is_chat(document) else pool.stories
        members.append(document)
        if len(members) >= 2 * TASK_DOCUMENTS:
            _thin(members)
        about = {
            key: value for key, value in document.data.items() if key != "turns" and value not in ("", None)
        }
        yield replace(document, data=about)
    _thin(pool.chats)
    _thin(pool.stories)


def _thin(members: list[Document]) -> None:
    """Keep the TASK_DOCUMENTS documents whose ids hash lowest, in their order."""
    if len(members) > TASK_DOCUMENTS:
        kept = set(sorted((document.id for document in members), key=_digest)[:TASK_DOCUMENTS])
        members[:] = [document for document in members if document.id in kept]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- report


class Report:
    """Writes documents and counts what was written: the stage's metrics."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        self.sets: dict[str, dict[str, Any]] = {name: {} for name in folders}
        self.missing: dict[str, int] = {}

    def write(self, name: str, split: str, documents: Iterable[Document]) -> None:
        """Write one file. Raises ValueError when there is nothing to write."""
        groups: dict[tuple[str, str], _Count] = {}

        def counted() -> Iterator[Document]:
            for document in documents:
                for key in (("", ""), ("kinds", document.kind), ("sources", document.source)):
                    groups.setdefault(key, _Count()).add(document)
                yield document

        if not write_documents(self.folders[name] / f"{split}.jsonl", counted()):
            raise ValueError(
                f"download.{name}.{split}: the set would be empty; ask for more, or use a larger corpus"
            )
        counts: dict[str, Any] = groups.pop(("", "")).metrics()
        for (group, key), count in groups.items():
            counts.setdefault(group, {})[key] = count.metrics()
        self.sets[name][split] = counts

    def metrics(self, source: Source) -> dict[str, Any]:
        """Documents, bytes and works by set, split, kind and source; what was missing and what was skipped."""
        skipped = {reason: count for reason, count in source.skipped.items() if count}
        return {**self.sets, "missing": self.missing, "skipped": skipped}


class _Count:
    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self.works: set[str] = set()

    def add(self, document: Document) -> None:
        self.total.update(documents=1, bytes=text_bytes(document))
        self.works.add(document.work)

    def metrics(self) -> dict[str, int]:
        return {**self.total, "works": len(self.works)}


def text_bytes(document: Document) -> int:
    """UTF-8 bytes of the words a document holds, without the JSON around them."""
    data = document.data
    texts = [document.text, data.get("chosen", ""), data.get("rejected", "")]
    texts += [message["content"] for key in ("messages", "prompt") for message in data.get(key, ())]
    return sum(len(text.encode()) for text in texts)
