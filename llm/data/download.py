"""download: one source of text -> the four raw sets, split by whole works.

pretrain     the texts themselves
sft          conversations to learn replies from: chats, stories, prompts with rules
preference   (prompt, chosen, rejected)
prompts      prompts whose answers a rule can score

Every set respects one split: what belongs to a validation work never feeds a train file. All four are
made in a scratch folder and appear together; an error leaves what was there before.
"""

import contextlib
import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from llm import registry
from llm.data.document import SPLITS, Document, read_documents, write_documents
from llm.data.sources.base import ReadySet, Source, is_chat
from llm.data.tasks import chat, rules, story
from llm.params import Family
from llm.runtime import derive_seed, output_dir, progress, work_dir

SETS = ("pretrain", "sft", "preference", "prompts")

# Tasks are made of at most so many documents of each kind and split, chosen by hash: a corpus of millions
# of documents must not be held in memory to make some thousand examples.
TASK_DOCUMENTS = 20_000


@dataclass(frozen=True, kw_only=True)
class SftSizes:
    """Examples of each family. What the corpus cannot give is reported in the metrics as missing."""

    chat: int
    story: int
    words: int
    cloze: int
    sums: int


@dataclass(frozen=True, kw_only=True)
class PreferenceSizes:
    """Pairs: chats with a rejected turn on another topic (easy) or the same one (hard), and stories."""

    easy: int
    hard: int
    story: int


@dataclass(frozen=True, kw_only=True)
class PromptSizes:
    """Prompts of each rule."""

    words: int
    cloze: int
    sums: int


@dataclass(frozen=True, kw_only=True)
class SftParams:
    train: SftSizes
    validation: SftSizes


@dataclass(frozen=True, kw_only=True)
class PreferenceParams:
    train: PreferenceSizes
    validation: PreferenceSizes


@dataclass(frozen=True, kw_only=True)
class PromptsParams:
    train: PromptSizes
    validation: PromptSizes


@dataclass(frozen=True, kw_only=True)
class DownloadParams:
    """validation_frac: share of the works of each kind that is held out, at least one work."""

    source: Annotated[Any, Family("llm.data.sources", nested=True)]
    validation_frac: float
    chat: chat.ChatParams
    story: story.StoryParams
    rules: rules.RuleParams
    sft: SftParams
    preference: PreferenceParams
    prompts: PromptsParams

    def __post_init__(self) -> None:
        if not 0 < self.validation_frac < 1:
            raise ValueError(f"validation_frac ({self.validation_frac}) must lie between 0 and 1")


@dataclass(kw_only=True)
class Pool:
    """The documents of one split that tasks are made of."""

    chats: list[Document] = field(default_factory=list)
    stories: list[Document] = field(default_factory=list)

    def texts(self) -> list[str]:
        return [document.text for document in self.stories or self.chats]


def download(params: DownloadParams, *, seed: int, out: Path) -> dict[str, Any]:
    """Write `out`/{pretrain,sft,preference,prompts}/{train,validation}.jsonl; returns the metrics.

    Raises:
        ValueError: the source fails, yields nothing, or a set would be empty. Nothing is written then.
    """
    source: Source = registry.build(params.source)
    report = _Report()
    work_dir().mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="download-", dir=work_dir())))
        held_out = _spool(source, spool / "all.jsonl", seed=seed, validation_frac=params.validation_frac)
        folders = {name: stack.enter_context(output_dir(out / name)) for name in SETS}
        pools = {split: Pool() for split in SPLITS}
        for split in SPLITS:
            documents = _pooling(_of_split(spool / "all.jsonl", held_out, split), pools[split])
            report.write(folders["pretrain"], "pretrain", split, documents)
        words = rules.vocabulary(pools["train"].texts(), params.rules)
        for split in SPLITS:
            maker = _Maker(params=params, seed=seed, split=split, pool=pools[split], vocabulary=words, report=report)
            report.write(folders["sft"], "sft", split, maker.sft(source))
            report.write(folders["preference"], "preference", split, maker.preference(source))
            report.write(folders["prompts"], "prompts", split, maker.prompts())
    return report.metrics(source)


# ---------------------------------------------------------------- split


def held_out_works(works: Iterable[tuple[str, str]], *, seed: int, validation_frac: float) -> set[str]:
    """The validation works among (kind, work) pairs: of each kind the first `validation_frac` by hash.

    The order is that of sha256(f"{seed}:{work}"), so adding a work moves no other one far.
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
        raise ValueError(f"download.source: no document is left ({reasons or 'the source is empty'}); widen its options")
    held_out = held_out_works(works, seed=seed, validation_frac=validation_frac)
    if not held_out:
        raise ValueError(
            "download.source: found one work only, which cannot be split into train and validation; "
            "add another file, or name a separator between documents"
        )
    return held_out


def _of_split(path: Path, held_out: set[str], split: str) -> Iterator[Document]:
    for document in read_documents(path):
        if (document.work in held_out) == (split == "validation"):
            yield document


def _pooling(documents: Iterable[Document], pool: Pool) -> Iterator[Document]:
    """Pass documents through without their turns (the text says the same); keep a sample for the tasks."""
    for document in documents:
        members = pool.chats if is_chat(document) else pool.stories
        members.append(document)
        if len(members) >= 2 * TASK_DOCUMENTS:
            _thin(members)
        yield replace(document, data={key: value for key, value in document.data.items() if key != "turns"})
    _thin(pool.chats)
    _thin(pool.stories)


def _thin(members: list[Document]) -> None:
    """Keep the TASK_DOCUMENTS documents whose ids hash lowest, in their order."""
    if len(members) > TASK_DOCUMENTS:
        kept = set(sorted((document.id for document in members), key=_digest)[:TASK_DOCUMENTS])
        members[:] = [document for document in members if document.id in kept]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- sets


class _Report:
    """Writes documents and counts what was written: the stage's metrics."""

    def __init__(self) -> None:
        self.sets: dict[str, dict[str, Any]] = {name: {} for name in SETS}
        self.missing: dict[str, int] = {}

    def write(self, folder: Path, name: str, split: str, documents: Iterable[Document]) -> None:
        groups: dict[str, dict[str, Counter[str]]] = {"kinds": {}, "sources": {}}
        works: dict[tuple[str, str], set[str]] = {}
        total = Counter(documents=0, bytes=0)

        def counted() -> Iterator[Document]:
            for document in documents:
                size = Counter(documents=1, bytes=_size(document))
                total.update(size)
                works.setdefault(("", ""), set()).add(document.work)
                for group, key in (("kinds", document.kind), ("sources", document.source)):
                    groups[group].setdefault(key, Counter()).update(size)
                    works.setdefault((group, key), set()).add(document.work)
                yield document

        if not write_documents(folder / f"{split}.jsonl", counted()):
            raise ValueError(f"download.{name}.{split}: the set would be empty; ask for more, or use a larger corpus")
        self.sets[name][split] = {**total, "works": len(works["", ""])} | {
            group: {key: {**size, "works": len(works[group, key])} for key, size in members.items()}
            for group, members in groups.items()
        }

    def take(self, documents: Iterable[Document], count: int, name: str) -> Iterator[Document]:
        """The first `count` documents; remembers how many were missing."""
        made = 0
        for document in islice(documents, count):
            made += 1
            yield document
        if made < count:
            self.missing[name] = count - made

    def metrics(self, source: Source) -> dict[str, Any]:
        skipped = {reason: count for reason, count in source.skipped.items() if count}
        return {**self.sets, "missing": self.missing, "skipped": skipped}


def _size(document: Document) -> int:
    """UTF-8 bytes of the words a document holds."""
    data = document.data
    texts = [document.text, data.get("chosen", ""), data.get("rejected", "")]
    texts += [message["content"] for key in ("messages", "prompt") for message in data.get(key, ())]
    return sum(len(text.encode()) for text in texts)


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """Makes the derived sets of one split."""

    params: DownloadParams
    seed: int
    split: str
    pool: Pool
    vocabulary: list[str]
    report: _Report

    def sft(self, source: Source) -> Iterator[Document]:
        sizes: SftSizes = getattr(self.params.sft, self.split)
        ready = self._ready(source, "sft")
        if ready is None:
            yield from self._take("sft", "chat", sizes.chat, self._chat_examples)
            yield from self._take("sft", "story", sizes.story, self._story_examples)
        else:
            yield from ready
        yield from self._take("sft", "words", sizes.words, self._words_examples)
        yield from self._take("sft", "cloze", sizes.cloze, lambda rng: rules.cloze_examples(self._gaps(), rng))
        yield from self._take("sft", "sums", sizes.sums, lambda rng: rules.sums_examples(rng, self.split))

    def preference(self, source: Source) -> Iterator[Document]:
        sizes: PreferenceSizes = getattr(self.params.preference, self.split)
        ready = self._ready(source, "preference")
        if ready is not None:
            yield from ready
            return
        yield from self._take("preference", "easy", sizes.easy, lambda rng: self._chat_pairs(rng, same_topic=False))
        yield from self._take("preference", "hard", sizes.hard, lambda rng: self._chat_pairs(rng, same_topic=True))
        yield from self._take("preference", "story", sizes.story, self._story_pairs)

    def prompts(self) -> Iterator[Document]:
        sizes: PromptSizes = getattr(self.params.prompts, self.split)
        yield from self._take("prompts", "words", sizes.words, self._words_prompts)
        yield from self._take("prompts", "cloze", sizes.cloze, lambda rng: rules.cloze_prompts(self._gaps(), rng))
        yield from self._take("prompts", "sums", sizes.sums, lambda rng: rules.sums_prompts(rng, self.split))

    def _take(
        self, name: str, kind: str, count: int, make: Callable[[random.Random], Iterator[Document]]
    ) -> Iterator[Document]:
        rng = random.Random(derive_seed(self.seed, "download", name, self.split, kind))
        return self.report.take(make(rng), count, f"{name}/{self.split}/{kind}")

    def _ready(self, source: Source, name: ReadySet) -> Iterator[Document] | None:
        """Ready-made documents of this split: they are split like works."""
        documents = source.ready(name)
        if documents is None:
            return None
        everything = list(documents)
        works = [(document.kind, document.work) for document in everything]
        held_out = held_out_works(works, seed=self.seed, validation_frac=self.params.validation_frac)
        return (d for d in everything if (d.work in held_out) == (self.split == "validation"))

    def _gaps(self) -> list[rules.Gap]:
        return rules.gaps(self.pool.stories, self.vocabulary, self.params.rules)

    def _chat_examples(self, rng: random.Random) -> Iterator[Document]:
        return chat.chat_examples(self.pool.chats, self.params.chat, rng)

    def _chat_pairs(self, rng: random.Random, *, same_topic: bool) -> Iterator[Document]:
        return chat.chat_pairs(self.pool.chats, self.params.chat, rng, same_topic=same_topic)

    def _story_examples(self, rng: random.Random) -> Iterator[Document]:
        return story.story_examples(self.pool.stories, self.params.story, rng)

    def _story_pairs(self, rng: random.Random) -> Iterator[Document]:
        return story.story_pairs(self.pool.stories, self.params.story, rng)

    def _words_examples(self, rng: random.Random) -> Iterator[Document]:
        return rules.words_examples(self.pool.stories, self.vocabulary, self.params.rules, rng)

    def _words_prompts(self, rng: random.Random) -> Iterator[Document]:
        return rules.words_prompts(self.vocabulary, self.params.rules, rng, self.split)
