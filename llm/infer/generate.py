"""generate: prompts -> completions, a batch at a time, with one decoding state (KV cache) for all rows.

The prompts are right-padded and read in one pass (prefill); then every step feeds one token a row. Rows that
have finished keep running beside the others and what they produce is thrown away.

Shapes      B rows, T prompt tokens, N new tokens, V vocabulary
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llm.infer.sampling import SamplingParams, sample
from llm.nn.model import Decoder


@dataclass(frozen=True)
class Completions:
    """One entry a prompt. tokens: the new tokens; a row that finished ends with its stop token.

    logps: log-probability of each new token under the distribution before truncation by top-k, top-p and
    min-p, temperature applied. finished: False where `max_new_tokens` cut the row off.
    """

    tokens: list[list[int]]
    logps: list[list[float]]
    finished: list[bool]


@torch.inference_mode()
def generate(
    model: Decoder,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    sampling: SamplingParams,
    stop_ids: set[int],
    generator: torch.Generator,
    on_token: Callable[[int, int], None] | None = None,
) -> Completions:
    """Continue every prompt by up to `max_new_tokens` tokens.

    A row's result depends on its own prompt and on its own random numbers (row b uses the b-th run of
    `max_new_tokens` draws of `generator`), not on what the other rows hold. `on_token(row, token)` is
    called for every token that counts, as soon as it exists.

    Raises:
        ValueError: no token in a prompt, or prompt and completion exceed `model.max_len`.
    """
    if not prompts:
        return Completions([], [], [])
    _check(model, prompts, max_new_tokens)
    device = model.embedding.weight.device
    tokens_BT, lengths_B = pad([torch.tensor(prompt, device=device) for prompt in prompts])
    uniform_BN = torch.rand(len(prompts), max_new_tokens, dtype=torch.float64, generator=generator).to(device)
    stops_V = torch.zeros(model.vocab_size, dtype=torch.bool, device=device)
    stops_V[sorted(stop_ids)] = True
    seen_BV = _seen(model, tokens_BT, lengths_B) if sampling.repetition_penalty != 1 else None

    states = model.init_state(len(prompts), tokens_BT.shape[1] + max_new_tokens)
    even = all(len(prompt) == len(prompts[0]) for prompt in prompts)  # then every step is a cheaper one
    logits_BTV = model.prefill(tokens_BT, states, None if even else lengths_B)
    logits_BV = logits_BTV[torch.arange(len(prompts), device=device), lengths_B - 1]
    running_B = torch.ones(len(prompts), dtype=torch.bool, device=device)
    tokens, logps, counts = [], [], []
    for step in range(max_new_tokens):
        tokens_B, logps_B = sample(logits_BV, sampling, uniform_B=uniform_BN[:, step], seen_BV=seen_BV)
        tokens.append(tokens_B)
        logps.append(logps_B)
        counts.append(running_B)
        if on_token is not None:
            _stream(on_token, tokens_B, running_B)
        if stop_ids:
            running_B = running_B & ~stops_V[tokens_B]
        # asking whether any row runs is the one synchronisation of a step
        if step + 1 == max_new_tokens or (stop_ids and not running_B.any()):
            break
        if seen_BV is not None:
            seen_BV.scatter_(1, tokens_B[:, None], True)
        logits_BV = model.decode(tokens_B[:, None], states)[:, 0]
    return _completions(tokens, logps, counts, running_B)


def pad(rows: list[Tensor], *, value: int = 0) -> tuple[Tensor, Tensor]:
    """Right-pad 1-d tensors to [B, T] -> (padded_BT, lengths_B). Padding tokens are never read as input."""
    lengths_B = torch.tensor([len(row) for row in rows], device=rows[0].device)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value), lengths_B


def _check(model: Decoder, prompts: list[list[int]], max_new_tokens: int) -> None:
    longest = max(len(prompt) for prompt in prompts)
    if min(len(prompt) for prompt in prompts) == 0:
        raise ValueError("generate: a prompt holds no token; begin it with <|endoftext|>")
    if max_new_tokens < 1:
        raise ValueError(f"generate: max_new_tokens is {max_new_tokens}; ask for at least 1")
    if longest + max_new_tokens > model.config.max_len:
        raise ValueError(
            f"generate: prompt of {longest} tokens and {max_new_tokens} new ones exceed model.max_len "
            f"({model.config.max_len}); shorten the prompt or ask for fewer tokens"
        )


def _seen(model: Decoder, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """True for the tokens of each prompt, padding left out, [B, V]."""
    real_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device) < lengths_B[:, None]
    counts_BV = torch.zeros(len(tokens_BT), model.vocab_size, dtype=torch.long, device=tokens_BT.device)
    return counts_BV.scatter_add_(1, tokens_BT, real_BT.long()) > 0


def _stream(on_token: Callable[[int, int], None], tokens_B: Tensor, running_B: Tensor) -> None:
    for row, (token, running) in enumerate(zip(tokens_B.tolist(), running_B.tolist(), strict=True)):
        if running:
            on_token(row, token)


def _completions(
    tokens: list[Tensor], logps: list[Tensor], counts: list[Tensor], running_B: Tensor
) -> Completions:
    lengths = torch.stack(counts, 1).sum(1).tolist()
    rows = zip(torch.stack(tokens, 1).tolist(), torch.stack(logps, 1).tolist(), lengths, strict=True)
    kept = [(ids[:length], scores[:length]) for ids, scores, length in rows]
    return Completions([ids for ids, _ in kept], [scores for _, scores in kept], (~running_B).tolist())
