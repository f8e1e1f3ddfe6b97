"""Decoding tokens a second with the KV cache beside `transformers.generate`, same shapes, alternating.

    python -m benchmarks.decode_speed [--rows 1] [--new 128] [--threads 1] [--processor-time]

Both decode greedily in float32 and, second, in bf16, from the same weights' shapes, with their KV caches. On a busy
machine processor time tells more than the clock on the wall, and the faster rounds more than the median.
"""

import argparse
import time

import torch

from benchmarks.train_speed import MODEL, D, F, G, L, N, V
from llm.infer.generate import generate
from llm.infer.sampling import SamplingParams
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict
from llm.runtime import set_up_torch


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--rows", type=int, default=1)
    cli.add_argument("--new", type=int, default=128)
    cli.add_argument("--rounds", type=int, default=5)
    cli.add_argument("--threads", type=int)
    cli.add_argument("--processor-time", action="store_true")
    args = cli.parse_args()
    set_up_torch(0)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    clock = time.process_time if args.processor_time else time.perf_counter
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=L, num_attention_heads=N,
        num_key_value_heads=G, max_position_embeddings=256, tie_word_embeddings=False,
    )  # fmt: skip
    prompt = torch.randint(4, V, (args.rows, 16))
    for dtype in (torch.float32, torch.bfloat16):
        model = Decoder(from_dict(ModelConfig, MODEL, "model"), V).to(dtype).eval()
        reference = LlamaForCausalLM(config).to(dtype).eval()

        def ours(model: Decoder = model) -> None:
            done = generate(
                model, prompt.tolist(), max_new_tokens=args.new, sampling=SamplingParams(temperature=0.0),
                stop_ids=set(), generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
            assert all(len(row) == args.new for row in done.tokens)

        def theirs(reference: LlamaForCausalLM = reference) -> None:
            with torch.inference_mode():
                out = reference.generate(
                    prompt, max_new_tokens=args.new, min_new_tokens=args.new, do_sample=False, pad_token_id=1
                )
            assert out.shape[1] == 16 + args.new

        seconds: dict[str, list[float]] = {"ours": [], "transformers": []}
        for turn in range(args.rounds + 1):
            for name, run in (("ours", ours), ("transformers", theirs)):
                t0 = clock()
                run()
                if turn:
                    seconds[name].append(clock() - t0)
        tokens = args.rows * args.new
        for which, rank in (("fastest", 0), ("quarter", args.rounds // 4), ("median", args.rounds // 2)):
            a, b = (sorted(seconds[name])[rank] for name in ("ours", "transformers"))
            print(f"{dtype!s:15s} {args.rows} rows, {which}: ours {tokens / a:7.0f} tokens/s, "
                  f"transformers {tokens / b:7.0f} tokens/s, ratio {b / a:4.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
