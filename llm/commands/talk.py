"""talk: continue a prompt, or hold a conversation, token by token in the terminal.

A conversation keeps one decoding state (KV cache) over all turns: a turn reads only what is new since the
last one. When the state is full, the oldest turns are forgotten and the rest is read again.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from llm.infer import generate as engine
from llm.infer import sampling as sampler
from llm.infer.sampling import SamplingParams
from llm.nn.io import load_model, read_config
from llm.nn.model import Decoder
from llm.runtime import device_name, hash_files
from llm.tokenizer.base import Tokenizer, load_tokenizer
from llm.tokenizer.chat_template import render

COMMANDS = "/reset forgets the conversation, /quit leaves"


def sampling(
    temperature: float, top_k: int, top_p: float, min_p: float, repetition_penalty: float
) -> SamplingParams:
    """Sampling parameters from the flags of the command line."""
    return SamplingParams(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )


def model_folder(name: str) -> Path:
    """The folder a user means: a path, or a name below models/."""
    path, named = Path(name), Path("models") / name
    return named if not path.exists() and named.is_dir() else path


def load(name: str) -> tuple[Decoder, Tokenizer]:
    """A language model and its tokenizer, checked against each other.

    Raises:
        ValueError: a missing, foreign or half-written folder, or one that holds no language model.
    """
    folder = model_folder(name)
    config = read_config(folder)
    if config.get("stage") == "reward":
        raise ValueError(
            f"{folder}: a reward model scores answers and writes none; use models/sft or models/aligned"
        )
    tokenizer = load_tokenizer(folder / "tokenizer")
    if hash_files(folder / "tokenizer") != config.get("tokenizer_hash"):
        raise ValueError(
            f"{folder}/tokenizer: not the one the model was trained with; delete {folder}, run: dvc repro"
        )
    return load_model(folder, device=device_name()), tokenizer


class Writer:
    """Turns tokens into text as they come; holds back bytes that are not yet a whole character."""

    def __init__(self, tokenizer: Tokenizer, write: Callable[[str], None]) -> None:
        self.tokenizer, self.write = tokenizer, write
        self.ids: list[int] = []
        self.written = 0

    def add(self, token: int) -> None:
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids, skip_special=True)
        if not text.endswith("\ufffd"):
            self.flush(text)

    def flush(self, text: str | None = None) -> str:
        """Write what is held back; returns the whole text."""
        whole = self.tokenizer.decode(self.ids, skip_special=True) if text is None else text
        self.write(whole[self.written :])
        self.written = len(whole)
        return whole


def generate(
    name: str, prompt: str, *, chat: bool, max_new_tokens: int, sampling: SamplingParams, seed: int
) -> None:
    """Print the continuation of one prompt, in chat form the answer to it."""
    model, tokenizer = load(name)
    if chat:
        ids, _ = render(tokenizer, [{"role": "user", "content": prompt}], add_generation_prompt=True)
    else:
        ids = [tokenizer.eot_id, *tokenizer.encode(prompt)]
        print(prompt, end="", flush=True)
    writer = Writer(tokenizer, _show)
    engine.generate(
        model,
        [ids],
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_ids={tokenizer.eot_id, tokenizer.im_end_id},
        generator=torch.Generator().manual_seed(seed),
        on_token=lambda _row, token: writer.add(token),
    )
    writer.flush()
    print()


class Conversation:
    """A chat with a model: `reply` reads one user message and writes the answer."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        *,
        max_new_tokens: int,
        sampling: SamplingParams,
        seed: int,
    ) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.max_new_tokens = max_new_tokens
        self.generator = torch.Generator().manual_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Forget every turn."""
        self.turns: list[list[int]] = []  # the ids of each exchange, as the model read and wrote them
        self.states = self.model.init_state(1)
        self.logits_BV = torch.empty(0)
        self._read([self.tokenizer.eot_id])

    @torch.inference_mode()
    def reply(self, text: str, write: Callable[[str], None]) -> str:
        """Answer a user message, passing text to `write` as it comes.

        Raises:
            ValueError: a message that does not fit into the model's context even alone.
        """
        prompt, _ = render(self.tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True)
        prompt = prompt[1:]  # <|endoftext|> begins the conversation, once
        self._make_room(len(prompt) + self.max_new_tokens + len(self._end_of_turn()))
        self._read(prompt)
        writer = Writer(self.tokenizer, write)
        answer: list[int] = []
        while len(answer) < self.max_new_tokens:
            token = self._next([*prompt, *answer])
            if token in (self.tokenizer.im_end_id, self.tokenizer.eot_id):
                break
            answer.append(token)
            writer.add(token)
            self._read([token])
        self._read(self._end_of_turn())
        self.turns.append([*prompt, *answer, *self._end_of_turn()])
        return writer.flush()

    def _end_of_turn(self) -> list[int]:
        return [self.tokenizer.im_end_id, *self.tokenizer.encode("\n")]

    def _read(self, ids: list[int]) -> None:
        tokens_BT = torch.tensor([ids], device=self.model.embedding.weight.device)
        step = self.model.decode if len(ids) == 1 else self.model.prefill
        self.logits_BV = step(tokens_BT, self.states)[:, -1]

    def _next(self, turn: list[int]) -> int:
        """Draw a token; the repetition penalty looks at this exchange only."""
        seen_BV = torch.zeros(1, self.model.vocab_size, dtype=torch.bool, device=self.logits_BV.device)
        seen_BV[0, turn] = True
        uniform_B = torch.rand(1, dtype=torch.float64, generator=self.generator).to(self.logits_BV.device)
        tokens_B, _ = sampler.sample(self.logits_BV, self.sampling, uniform_B=uniform_B, seen_BV=seen_BV)
        return int(tokens_B)

    def _make_room(self, n_tokens: int) -> None:
        """Forget the oldest exchanges until `n_tokens` more fit."""
        room = self.model.config.max_len - 1  # <|endoftext|>
        if n_tokens > room:
            raise ValueError(
                f"message and answer of up to {n_tokens} tokens exceed the model's context of {room}; "
                f"write less, or lower --max-new-tokens"
            )
        kept = self.turns
        while sum(map(len, kept)) + n_tokens > room:
            kept = kept[1:]
        if len(kept) < len(self.turns):
            self.reset()
            for turn in kept:
                self._read(turn)
            self.turns = kept


def chat(name: str, *, max_new_tokens: int, sampling: SamplingParams, seed: int) -> None:
    """Answer each line of standard input with the model until /quit or the end of the input."""
    model, tokenizer = load(name)
    talk = Conversation(model, tokenizer, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)
    if sys.stdin.isatty():
        print(
            f"{name}: {model.num_params():,} parameters, context {model.config.max_len} tokens. {COMMANDS}."
        )
    for line in _typed() if sys.stdin.isatty() else sys.stdin:
        text = line.strip()
        if text == "/quit":
            return
        if text == "/reset":
            talk.reset()
            print("(forgotten)", flush=True)
        elif text.startswith("/"):
            print(f"llm chat: unknown command {text.split()[0]}; {COMMANDS}", file=sys.stderr)
        elif text:
            _answer(talk, text)


def _typed() -> Iterator[str]:
    """Lines from a terminal, with the line editing of readline where Python has it."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - importing it is what switches line editing on
    with contextlib.suppress(EOFError):
        while True:
            yield input("> ")
    print()


def _answer(talk: Conversation, text: str) -> None:
    """One answer on its own line; a message that does not fit is reported and the chat goes on."""
    before = len(talk.turns)
    try:
        talk.reply(text, _show)
    except ValueError as error:
        print(f"llm chat: {error}", file=sys.stderr)
        return
    print(flush=True)
    if len(talk.turns) <= before:
        print("(the context is full: the oldest turns were forgotten)", file=sys.stderr)


def _show(text: str) -> None:
    print(text, end="", flush=True)
