"""encode: documents of the four sets to token ids with loss masks.

What a document becomes depends on its set; `LAYOUTS` names the four. Everything else is shared: documents are
laid out as parts (special ids and texts), the texts of a batch are encoded together on all cores, and the
parts are put together again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llm.data.document import SPLITS, Document, read_documents
from llm.data.encoded import EncodedDoc, EncodedSet, write_encoded
from llm.runtime import output_dir, progress
from llm.tokenizer.algorithms.base import Algorithm
from llm.tokenizer.base import Tokenizer, load_tokenizer
from llm.tokenizer.chat_template import Part, answered, assemble, conversation, texts
from llm.tokenizer.encoder import Encoder, LibraryEncoder

# The parts of one encoded document, and what docs.jsonl says about it besides id, kind and n_bytes.
Layout = tuple[list[Part], dict[str, Any]]

_BATCH_CHARS = 1 << 20
_AHEAD = 3


def encode_set(
    set_name: str, source: Path, tokenizer_folder: Path, out: Path, algorithm: Algorithm | None = None
) -> dict[str, Any]:
    """Encode both splits of a set into `out` and return counts for each.

    algorithm: whose own encoder does the work; without one it is the library's. The ids are the same.

    Raises:
        ValueError: an unknown set, an empty split, a document without what its set needs, or a tokenizer
            that another kind of algorithm made.
    """
    if set_name not in LAYOUTS:
        raise ValueError(f"--set: {set_name!r} is not one of {', '.join(LAYOUTS)}")
    tokenizer = load_tokenizer(tokenizer_folder)
    if algorithm and algorithm.kind != tokenizer.kind:
        raise ValueError(
            f"{tokenizer_folder}: kind is {tokenizer.kind!r}, params.yaml.tokenizer.kind is "
            f"{algorithm.kind!r}; run: dvc repro tokenizer"
        )
    encoder = algorithm.encoder(tokenizer) if algorithm else LibraryEncoder(tokenizer)
    report = {}
    with output_dir(out) as folder:
        for split in SPLITS:
            path = source / f"{split}.jsonl"
            docs = encode_documents(tokenizer, encoder, read_documents(path), LAYOUTS[set_name], str(path))
            write_encoded(
                folder / split,
                progress(docs, f"encode {split}"),
                set_name=set_name,
                split=split,
                tokenizer_hash=tokenizer.hash,
                vocab_size=tokenizer.vocab_size,
            )
            report[split] = _counts(EncodedSet.open(folder / split))
    return report


def encode_documents(
    tokenizer: Tokenizer,
    encoder: Encoder,
    documents: Iterable[Document],
    layout: Callable[[Tokenizer, Document], list[Layout]],
    where: str,
) -> Iterator[EncodedDoc]:
    """Ids, loss mask and record of each document, in order.

    A batch or two are encoded while the one before is put together, so no core waits for a long document at
    the end of a batch, nor for the files; memory holds `_AHEAD` batches.
    """
    with ThreadPoolExecutor(_AHEAD - 1) as pool:
        waiting: deque[tuple[list[Layout], Future[list[list[int]]]]] = deque()
        for batch in _batches(_laid_out(tokenizer, documents, layout, where)):
            plain = [text for parts, _ in batch for text in texts(parts)]
            waiting.append((batch, pool.submit(encoder.encode_batch, plain)))
            if len(waiting) == _AHEAD:
                yield from _put_together(*waiting.popleft())
        while waiting:
            yield from _put_together(*waiting.popleft())


def _put_together(batch: list[Layout], future: "Future[list[list[int]]]") -> Iterator[EncodedDoc]:
    encoded = iter(future.result())
    for parts, record in batch:
        ids, mask = assemble(parts, encoded)
        yield ids, mask, record


# ---------------------------------------------------------------- one layout for each set


def pretrain(tokenizer: Tokenizer, document: Document) -> list[Layout]:
    """<|endoftext|> text <|endoftext|>: the text and its end are scored."""
    if not isinstance(document.text, str):
        raise ValueError(f"text is {document.text!r}; give a string")
    return [([(tokenizer.eot_id, False), (document.text, True), (tokenizer.eot_id, True)], {})]


def sft(tokenizer: Tokenizer, document: Document) -> list[Layout]:
    """A conversation by the chat template: assistant contents and their ends are scored."""
    return [(conversation(tokenizer, document.data["messages"]), {})]


def preference(tokenizer: Tokenizer, document: Document) -> list[Layout]:
    """Two documents, the prompt with the chosen and with the rejected answer; the answer is scored."""
    prompt = document.data["prompt"]
    return [
        (answered(tokenizer, prompt, document.data[side]), {"side": side}) for side in ("chosen", "rejected")
    ]


def prompts(tokenizer: Tokenizer, document: Document) -> list[Layout]:
    """A prompt that asks for an answer: nothing is scored; the rule that judges answers goes along."""
    messages = document.data["prompt"]
    parts = [(part, False) for part, _ in conversation(tokenizer, messages, add_generation_prompt=True)]
    return [(parts, {"rule": document.data["rule"], "prompt": messages[-1]["content"]})]


LAYOUTS = {"pretrain": pretrain, "sft": sft, "preference": preference, "prompts": prompts}


# ---------------------------------------------------------------- helpers


def _laid_out(
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    layout: Callable[[Tokenizer, Document], list[Layout]],
    where: str,
) -> Iterator[Layout]:
    """Layouts with complete records. Raises ValueError naming the document that is not as its set demands."""
    for document in documents:
        try:
            for parts, payload in layout(tokenizer, document):
                n_bytes = sum(
                    len(part.encode()) for part, scored in parts if scored and isinstance(part, str)
                )
                yield parts, {"id": document.id, "kind": document.kind, "n_bytes": n_bytes, **payload}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{where}: document {document.id!r}: {reason}; run: dvc repro download"
            ) from None


def _batches(layouts: Iterable[Layout]) -> Iterator[list[Layout]]:
    batch: list[Layout] = []
    size = 0
    for layout in layouts:
        batch.append(layout)
        size += sum(len(text) for text in texts(layout[0]))
        if size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _counts(encoded: EncodedSet) -> dict[str, int | float]:
    n_scored = int(encoded.loss_mask.sum(dtype="int64"))
    n_bytes = sum(record["n_bytes"] for record in encoded.docs)
    lengths = encoded.offsets[1:] - encoded.offsets[:-1]
    counts: dict[str, int | float] = {
        "n_docs": len(encoded),
        "n_tokens": len(encoded.tokens),
        "n_scored": n_scored,
        "n_bytes": n_bytes,
        "longest_doc_tokens": int(lengths.max()),
    }
    if n_scored:
        counts["bytes_per_token"] = n_bytes / n_scored
    return counts
