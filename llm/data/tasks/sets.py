"""sets: how many examples of each family the sft, preference and prompts sets hold, and their making.

The families themselves are in chat.py, story.py and rules.py. Each gets its own random stream, derived from
(seed, set, split, family): asking for more of one changes nothing in the others.
"""

import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from llm.data.document import Document
from llm.data.tasks import chat, rules, story
from llm.data.tasks.rules import Gap
from llm.runtime import derive_seed


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
    """Pairs: chats whose rejected turn is on another topic (easy) or on the same one (hard), and stories."""

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
    """Sizes of both splits."""

    train: SftSizes
    validation: SftSizes


@dataclass(frozen=True, kw_only=True)
class PreferenceParams:
    """Sizes of both splits."""

    train: PreferenceSizes
    validation: PreferenceSizes


@dataclass(frozen=True, kw_only=True)
class PromptsParams:
    """Sizes of both splits."""

    train: PromptSizes
    validation: PromptSizes


@dataclass(kw_only=True)
class Pool:
    """The documents of one split that tasks are made of."""

    chats: list[Document] = field(default_factory=list)
    stories: list[Document] = field(default_factory=list)

    def texts(self) -> list[str]:
        """The prose, or the chats where there is none."""
        return [document.text for document in self.stories or self.chats]


@dataclass(kw_only=True)
class SetMaker:
    """Makes the derived sets of one split. `missing` counts what the corpus could not give, by family."""

    seed: int
    split: str
    pool: Pool
    vocabulary: list[str]
    chat: chat.ChatParams
    story: story.StoryParams
    rules: rules.RuleParams
    missing: dict[str, int] = field(default_factory=dict)

    def sft(self, sizes: SftSizes, ready: list[Document] | None = None) -> Iterator[Document]:
        """Chats and stories, or the ready-made conversations instead of them, then prompts with rules."""
        if ready is None:
            talks = chat.chat_examples(self.pool.chats, self.chat, self._rng("sft", "chat"))
            yield from self._take(talks, sizes.chat, "sft/chat")
            tales = story.story_examples(self.pool.stories, self.story, self._rng("sft", "story"))
            yield from self._take(tales, sizes.story, "sft/story")
        else:
            yield from ready
        words = rules.words_examples(
            self.pool.stories, self.vocabulary, self.rules, self._rng("sft", "words")
        )
        yield from self._take(words, sizes.words, "sft/words")
        yield from self._take(
            rules.cloze_examples(self._gaps(), self._rng("sft", "cloze")), sizes.cloze, "sft/cloze"
        )
        yield from self._take(
            rules.sums_examples(self._rng("sft", "sums"), self.split), sizes.sums, "sft/sums"
        )

    def preference(self, sizes: PreferenceSizes, ready: list[Document] | None = None) -> Iterator[Document]:
        """Pairs of chats and stories, or the ready-made pairs."""
        if ready is not None:
            yield from ready
            return
        for kind, count in (("easy", sizes.easy), ("hard", sizes.hard)):
            rng = self._rng("preference", kind)
            pairs = chat.chat_pairs(self.pool.chats, self.chat, rng, same_topic=kind == "hard")
            yield from self._take(pairs, count, f"preference/{kind}")
        pairs = story.story_pairs(self.pool.stories, self.story, self._rng("preference", "story"))
        yield from self._take(pairs, sizes.story, "preference/story")

    def prompts(self, sizes: PromptSizes) -> Iterator[Document]:
        """Prompts whose answers a rule scores."""
        words = rules.words_prompts(self.vocabulary, self.rules, self._rng("prompts", "words"), self.split)
        yield from self._take(words, sizes.words, "prompts/words")
        cloze = rules.cloze_prompts(self._gaps(), self._rng("prompts", "cloze"))
        yield from self._take(cloze, sizes.cloze, "prompts/cloze")
        sums = rules.sums_prompts(self._rng("prompts", "sums"), self.split)
        yield from self._take(sums, sizes.sums, "prompts/sums")

    def _rng(self, name: str, family: str) -> random.Random:
        return random.Random(derive_seed(self.seed, "download", name, self.split, family))

    def _gaps(self) -> list[Gap]:
        return rules.gaps(self.pool.stories, self.vocabulary, self.rules)

    def _take(self, documents: Iterable[Document], count: int, name: str) -> Iterator[Document]:
        """The first `count` documents; says and remembers how many were missing."""
        made = 0
        for document in islice(documents, count):
            made += 1
            yield document
        if made < count:
            where = f"{name}/{self.split}"
            print(
                f"download: {where}: {count} asked for, {made} made; the corpus gives no more",
                file=sys.stderr,
            )
            self.missing[where] = count - made
