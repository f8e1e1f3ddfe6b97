"""Change one part of a tiny model and see what it does, in half a minute: the experiments of docs/nn.

    python benchmarks/ablate.py                                    the plain tiny model
    python benchmarks/ablate.py position.kind=none mixer.qk_norm=true seed=1

Two tasks, two layers of width 64, AdamW, one thread, float32:
  copy   12 to 23 different symbols in random order, again and again; accuracy from the second round on.
         The period is not told: the model has to find where the symbol stood before, and what came
         after it. Every batch is new, nothing can be learned by heart.
  zen    the 856 bytes that `import this` prints, by heart; nats per byte. Needs capacity and a good descent.
"""

import codecs
import contextlib
import io
import sys
from collections.abc import Iterator

import torch
import yaml
from torch import Tensor

from llm.nn.model import Decoder, ModelConfig
from llm.nn.objective import TokenBatch, next_token_loss
from llm.params import from_dict

TINY = """
d_model: 64
n_layers: 2
max_len: 128
tied_head: false
mixer: {kind: gqa, n_heads: 4, n_kv_heads: 2, qk_norm: false}
ffn: {kind: swiglu, d_ff: 172}
norm: {kind: rmsnorm}
position: {kind: rope}
init: {kind: gpt2}
"""
SYMBOLS, SHORTEST, SPAN = 64, 12, 48
ROWS, COPY_STEPS, ZEN_STEPS, LR = 32, 400, 150, 3e-3


def main() -> None:
    model = yaml.safe_load(TINY) | {"seed": 0}
    for change in sys.argv[1:]:
        path, _, value = change.partition("=")
        *parents, key = path.split(".")
        section = model
        for parent in parents:
            section = section[parent]
        section[key] = yaml.safe_load(value)
    seed = model.pop("seed")
    config = from_dict(ModelConfig, model, "model")
    print(f"{' '.join(sys.argv[1:]) or 'plain'}: copy {copy(config, seed):.3f}, zen {zen(config, seed):.3f}")


def copy(config: ModelConfig, seed: int) -> float:
    model = fit(config, SYMBOLS, copy_batches(), COPY_STEPS, seed)
    batch = next(copy_batches(seed=1))
    hits = model(batch.tokens_BT).argmax(-1) == batch.targets_BT
    return float(hits[batch.mask_BT].double().mean())


def copy_batches(seed: int = 0) -> Iterator[TokenBatch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows, masks = [], []
        for _ in range(ROWS):
            length = int(torch.randint(SHORTEST, SPAN // 2, (), generator=generator))
            once = torch.randperm(SYMBOLS, generator=generator)[:length]
            rows.append(once.repeat(-(-SPAN // length))[:SPAN])
            masks.append(torch.arange(1, SPAN) > length)  # the first repeated symbol is a surprise
        row, mask = torch.stack(rows), torch.stack(masks)
        yield TokenBatch(row[:, :-1], row[:, 1:], mask)


def zen(config: ModelConfig, seed: int) -> float:
    text = zen_bytes()
    model = fit(config, 256, zen_batches(text), ZEN_STEPS, seed)
    windows = text.unfold(0, 65, 64)
    everything = TokenBatch(
        windows[:, :-1], windows[:, 1:], torch.ones_like(windows[:, 1:], dtype=torch.bool)
    )
    loss = next_token_loss(model, everything)
    return float(loss.sum.detach()) / loss.count


def zen_batches(text: Tensor) -> Iterator[TokenBatch]:
    generator = torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(len(text) - 65, (ROWS,), generator=generator)
        rows = torch.stack([text[start : start + 65] for start in starts])
        yield TokenBatch(rows[:, :-1], rows[:, 1:], torch.ones(ROWS, 64, dtype=torch.bool))


def zen_bytes() -> Tensor:
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    return torch.tensor(list(codecs.decode(this.s, "rot13").encode()))


def fit(
    config: ModelConfig, vocab_size: int, batches: Iterator[TokenBatch], steps: int, seed: int
) -> Decoder:
    torch.manual_seed(seed)
    model = Decoder(config, vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0)
    for _step, batch in zip(range(steps), batches, strict=False):
        loss = next_token_loss(model, batch)
        (loss.sum / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
