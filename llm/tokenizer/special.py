"""special: the tokens that are not text, and the order of their ids.

The four below come first in every vocabulary, so that their ids are the same for every tokenizer of this
project. They mark structure (the end of a document, the turns of a conversation), so only code that knows
the structure may write them: text that happens to contain `<|im_end|>` is encoded as ordinary characters.
"""

import re
from collections.abc import Sequence

EOT = "<|endoftext|>"  # begins and ends a document: BOS and EOS in one
PAD = "<|pad|>"  # fills rows; never scored, never attended to
IM_START = "<|im_start|>"  # begins a turn of a conversation
IM_END = "<|im_end|>"  # ends a turn; generation stops here

CORE = (EOT, PAD, IM_START, IM_END)

# A letter after the bar matters: pre-tokenisation splits `<|` from letters, so no merge can ever
# build such a string out of text, while `<|--|>` is a single run of punctuation and could be learned.
_SHAPE = re.compile(r"<\|[a-z][a-z0-9_]*\|>")


def special_tokens(extra: Sequence[str]) -> tuple[str, ...]:
    """All special tokens in id order: the four core ones, then `extra`.

    Raises:
        ValueError: a name that is not of the form <|name|>, or one given twice.
    """
    for token in extra:
        if not _SHAPE.fullmatch(token):
            raise ValueError(
                f"special_tokens: {token!r} is not of the form '<|name|>' (a-z, 0-9, _); rename it"
            )
    tokens = (*CORE, *extra)
    twice = sorted({token for token in tokens if tokens.count(token) > 1})
    if twice:
        raise ValueError(
            f"special_tokens: {twice[0]!r} is there twice (always present: {', '.join(CORE)}); remove it"
        )
    return tokens
