"""story: supervised examples and preference pairs out of tales.

The answers are the tales' own paragraphs; only the instruction in front is a template. Three families:
tell the story of a title (its opening), continue a paragraph, say how a story ends (its last paragraph).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any, NamedTuple

from llm.data.document import Document
from llm.data.tasks.text import is_whole, paragraphs, passages, sentences

TELL = (
    "Tell me the story of {title}.",
    "Do you know the story of {title}? Please tell it.",
    "I would like to hear {title}.",
    "How does the story of {title} begin?",
)
CONTINUE = (
    "Continue the story: {passage}",
    "What happens next? {passage}",
    "Please go on with this story.\n{passage}",
    "{passage}\nWrite the next part.",
)
END = (
    "How does the story of {title} end?",
    "Tell me the end of {title}.",
    "What are the last words of the story of {title}?",
)


@dataclass(frozen=True, kw_only=True)
class StoryParams:
    """min_chars, max_chars: length of a passage that may be asked for or given. Longer openings are cut."""

    min_chars: int = 60
    max_chars: int = 360

    def __post_init__(self) -> None:
        if not 0 < self.min_chars <= self.max_chars:
            raise ValueError(f"min_chars ({self.min_chars}) must lie in 1..max_chars ({self.max_chars})")


class Step(NamedTuple):
    """A passage and the one that follows it in the same story."""

    story: Document
    number: int
    passage: str
    following: str


def story_examples(stories: list[Document], params: StoryParams, rng: random.Random) -> Iterator[Document]:
    """Openings and endings of titled stories, in two wordings each, among as many continuations, then the rest."""
    titled = [*_about_titles(stories, params, rng), *_about_titles(stories, params, rng)]
    continued = [
        _example(
            step.story,
            f"next/{step.number}",
            rng.choice(CONTINUE).format(passage=step.passage),
            step.following,
        )
        for step in _steps(stories, params)
    ]
    rng.shuffle(continued)
    seen: set[str] = set()
    mixed = [*titled, *continued[: len(titled)]]
    rng.shuffle(mixed)
    for document in [*mixed, *continued[len(titled) :]]:
        if document.id not in seen:
            seen.add(document.id)
            yield document


def story_pairs(stories: list[Document], params: StoryParams, rng: random.Random) -> Iterator[Document]:
    """Chosen: the true continuation. Rejected, in turn: a passage of another work; the same, sentences shuffled.

    The two kinds are drawn apart, so that neither holds the passages that the other one cannot use.
    """
    steps = list(_steps(stories, params))
    other = ((step, _elsewhere(steps, step, rng), "other") for step in rng.sample(steps, len(steps)))
    shuffled = ((step, _shuffled(step.following, rng), "shuffled") for step in rng.sample(steps, len(steps)))
    streams = [filter(_has_rejected, other), filter(_has_rejected, shuffled)]
    for step, rejected, name in (made for pair in zip_longest(*streams) for made in pair if made):
        prompt = rng.choice(CONTINUE).format(passage=step.passage)
        data = {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": step.following,
            "rejected": rejected,
        }
        yield _derived(step.story, f"pair-story/{step.story.id}/{step.number}/{name}", data)


def _has_rejected(made: tuple[Step, str, str]) -> bool:
    return made[1] != ""


def _steps(stories: list[Document], params: StoryParams) -> Iterator[Step]:
    for story in stories:
        number = 0
        for run in passages(story.text, params.min_chars, params.max_chars):
            for passage, following in pairwise(run):
                if is_whole(following):
                    yield Step(story, number, passage, following)
                number += 1


def _about_titles(stories: list[Document], params: StoryParams, rng: random.Random) -> Iterator[Document]:
    """One opening and one ending of every story that is its whole work and has a title."""
    for story in stories:
        title = story.data.get("title")
        if not title or "section" in story.data:
            continue
        opening = _opening(story.text, params)
        form = rng.randrange(len(TELL))
        if opening:
            yield _example(story, f"tell/{form}", TELL[form].format(title=title), opening)
        ending = paragraphs(story.text)[-1]
        form = rng.randrange(len(END))
        if params.min_chars <= len(ending) <= params.max_chars:
            yield _example(story, f"end/{form}", END[form].format(title=title), ending)


def _opening(text: str, params: StoryParams) -> str:
    """Whole sentences from the start, at most `max_chars`; empty when they are fewer than `min_chars`."""
    opening = ""
    for sentence in sentences(paragraphs(text)[0]):
        longer = f"{opening} {sentence}".strip()
        if len(longer) > params.max_chars:
            break
        opening = longer
    return opening if len(opening) >= params.min_chars else ""


def _shuffled(passage: str, rng: random.Random) -> str:
    """The passage with its sentences in another order; empty when it has fewer than two different ones."""
    pieces = sentences(passage)
    if len(set(pieces)) < 2:
        return ""
    order = list(pieces)
    while order == pieces:
        rng.shuffle(order)
    return " ".join(order)


def _elsewhere(steps: list[Step], step: Step, rng: random.Random) -> str:
    for _ in range(20):
        other = steps[rng.randrange(len(steps))]
        if other.story.work != step.story.work and other.following != step.following:
            return other.following
    return ""


def _example(story: Document, name: str, prompt: str, answer: str) -> Document:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return _derived(story, f"sft-story/{story.id}/{name}", {"messages": messages})


def _derived(story: Document, id: str, data: dict[str, Any]) -> Document:
    return Document(
        id=id, source=story.source, kind="story", licence=story.licence, work=story.work, data=data
    )
