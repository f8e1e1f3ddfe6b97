"""chat_template: a conversation as token ids, in one place for training, generation and evaluation (ChatML).

    <|endoftext|><|im_start|>user\\nHello!<|im_end|>\\n<|im_start|>assistant\\nHi.<|im_end|>\\n
                                                                          ^^^^^^^^^^^^^ scored

The ids are put together turn by turn from parts that are encoded apart: special tokens are single ids put
in by this file, role headers and contents are ordinary text. So no merge crosses the seam between a prompt
and its answer, the answer's place is known instead of searched for, and nothing a user writes can end a turn.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llm.tokenizer.base import Tokenizer

VERSION = 1  # raise it with any change of the ids below: tokenizer and encoded data are then made again
ROLES = ("system", "user", "assistant")

# The same template in the language other tools read; stored in meta.json, rendered by a test only.
JINJA = (
    "{{ '<|endoftext|>' }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# A stretch of a conversation: text to be encoded, or the id of a special token; and whether it is scored.
Part = tuple[str | int, bool]


def render(
    tokenizer: Tokenizer, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """Ids and loss mask of a conversation; the mask is 1 on assistant contents and their `<|im_end|>`."""
    parts = conversation(tokenizer, messages, add_generation_prompt=add_generation_prompt)
    return assemble(parts, iter(tokenizer.encode_batch(texts(parts))))


def render_completion(
    tokenizer: Tokenizer, prompt: Sequence[dict[str, Any]], completion: str
) -> tuple[list[int], list[int]]:
    """Ids and loss mask of a prompt and one answer to it; ends with the scored `<|im_end|>`."""
    parts = answered(tokenizer, prompt, completion)
    return assemble(parts, iter(tokenizer.encode_batch(texts(parts))))


def conversation(
    tokenizer: Tokenizer, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = False
) -> list[Part]:
    """The parts of a conversation, every assistant turn scored.

    Raises:
        ValueError: no messages, an unknown role or a content that is not text.
    """
    _check(tokenizer, messages)
    parts: list[Part] = [(tokenizer.eot_id, False)]
    for message in messages:
        scored = message["role"] == "assistant"
        parts += [(tokenizer.im_start_id, False), (message["role"] + "\n", False)]
        parts += [(message["content"], scored), (tokenizer.im_end_id, scored), ("\n", False)]
    if add_generation_prompt:
        parts += [(tokenizer.im_start_id, False), ("assistant\n", False)]
    return parts


def answered(tokenizer: Tokenizer, prompt: Sequence[dict[str, Any]], completion: str) -> list[Part]:
    """The parts of a prompt and one answer: only the answer is scored, earlier assistant turns are not."""
    if not isinstance(completion, str):
        raise ValueError(f"chat template: the answer is {completion!r}; give a string")
    parts = [(part, False) for part, _ in conversation(tokenizer, prompt, add_generation_prompt=True)]
    return [*parts, (completion, True), (tokenizer.im_end_id, True)]


def texts(parts: Iterable[Part]) -> list[str]:
    """What is left to encode, in order."""
    return [part for part, _ in parts if isinstance(part, str)]


def assemble(parts: Iterable[Part], encoded: Iterator[list[int]]) -> tuple[list[int], list[int]]:
    """Ids and loss mask of parts whose texts come encoded, in the order of `texts`."""
    ids: list[int] = []
    mask: list[int] = []
    for part, scored in parts:
        new = [part] if isinstance(part, int) else next(encoded)
        ids += new
        mask += [int(scored)] * len(new)
    return ids, mask


def _check(tokenizer: Tokenizer, messages: Sequence[dict[str, Any]]) -> None:
    if tokenizer.chat_template_version != VERSION:
        raise ValueError(
            f"chat template: the tokenizer was made for version {tokenizer.chat_template_version}, "
            f"this code is version {VERSION}; run: dvc repro tokenizer"
        )
    if not messages:
        raise ValueError("chat template: a conversation without messages")
    for number, message in enumerate(messages):
        if message.get("role") not in ROLES:
            role = message.get("role")
            raise ValueError(
                f"chat template: message {number} has role {role!r}; roles are {', '.join(ROLES)}"
            )
        if not isinstance(message.get("content"), str):
            raise ValueError(
                f"chat template: message {number} has content {message.get('content')!r}; give a string"
            )
