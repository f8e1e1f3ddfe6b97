"""What a new mixer adds to its laws: tiny Configs, and the size of its decoding state as its page claims it."""

D = 24  # d_model of the laws
GQA = {"kind": "gqa", "n_heads": 4, "n_kv_heads": 2}

# Several Configs for each kind, so that every option is under the laws.
TINY = {
    "moba": [
        {"n_heads": 4, "n_kv_heads": 2, "block": 3, "top_k": 2},
        {
            "n_heads": 3,
            "n_kv_heads": 1,
            "block": 4,
            "top_k": 3,
            "qk_norm": True,
            "d_head": 6,
            "rotate": False,
        },
        {"n_heads": 2, "n_kv_heads": 2, "block": 5, "top_k": 1},
        {"n_heads": 2, "n_kv_heads": 1, "block": 1, "top_k": 20},
    ],
    "nsa": [
        {"n_heads": 4, "n_kv_heads": 2, "block": 2, "stride": 1, "select": 2, "top_k": 3, "window": 3},
        {
            "n_heads": 4,
            "n_kv_heads": 1,
            "block": 4,
            "stride": 2,
            "select": 2,
            "top_k": 4,
            "window": 5,
            "summary": "mean",
            "separate_kv": False,
            "qk_norm": True,
            "d_head": 6,
        },
        {
            "n_heads": 3,
            "n_kv_heads": 3,
            "block": 3,
            "stride": 3,
            "select": 6,
            "top_k": 3,
            "window": 1,
            "rotate": False,
        },
        {
            "n_heads": 2,
            "n_kv_heads": 1,
            "block": 1,
            "stride": 1,
            "select": 1,
            "top_k": 20,
            "separate_kv": False,
        },
        {"n_heads": 2, "n_kv_heads": 1, "block": 40, "stride": 4, "select": 4, "top_k": 5, "window": 2},
    ],
    "delta": [
        {"n_heads": 3, "chunk": 4},
        {
            "n_heads": 2,
            "n_value_heads": 4,
            "d_key": 6,
            "d_value": 5,
            "conv": 1,
            "negative": True,
            "chunk": 64,
        },
    ],
    "gated_delta": [
        {"n_heads": 3, "chunk": 4},
        {"n_heads": 2, "n_value_heads": 4, "d_key": 6, "d_value": 5, "conv": 2, "chunk": 5},
        {"n_heads": 2, "negative": True, "chunk": 64},
    ],
    "kda": [
        {"n_heads": 3, "chunk": 4},
        {"n_heads": 2, "n_value_heads": 4, "d_key": 6, "d_value": 5, "rank": 3, "conv": 2, "chunk": 5},
        {"n_heads": 2, "negative": True, "chunk": 64},
    ],
    "mamba": [
        {"expand": 2, "d_state": 4},
        {"expand": 1, "d_state": 3, "dt_rank": 5, "conv": 2, "inner_norms": True},
    ],
    "mamba2": [
        {"expand": 2, "d_head": 6, "d_state": 5, "n_groups": 2, "chunk": 4},
        {"expand": 1, "d_head": 24, "d_state": 3, "conv": 2, "chunk": 64},
    ],
    "rwkv4": [{}],
    "rwkv7": [
        {"d_head": 8, "decay_rank": 5, "rate_rank": 4, "value_rank": 3, "gate_rank": 6, "chunk": 4},
        {"d_head": 24, "chunk": 64},
        {"d_head": 6, "gate_rank": 1, "chunk": 5},
    ],
    "rwkv_channel": [{"d_ff": 31}, {"gate": True}],
    "sliding_window": [
        {"n_heads": 4, "n_kv_heads": 2, "window": 5},
        {"n_heads": 2, "n_kv_heads": 2, "window": 4, "sinks": 3, "qk_norm": True, "d_head": 6},
        {"n_heads": 4, "n_kv_heads": 1, "window": 1},
    ],
    "longformer": [
        {"n_heads": 4, "n_kv_heads": 2, "window": 3, "n_global": 1, "global_every": 4},
        {
            "n_heads": 2,
            "n_kv_heads": 2,
            "window": 4,
            "n_global": 2,
            "global_every": 0,
            "qk_norm": True,
            "d_head": 6,
        },
        {"n_heads": 4, "n_kv_heads": 1, "window": 1, "n_global": 0, "global_every": 3, "rotate": False},
        {"n_heads": 4, "n_kv_heads": 4, "window": 6, "n_global": 3, "global_every": 5},
        {"n_heads": 4, "n_kv_heads": 2, "window": 5, "n_global": 0, "global_every": 0},
    ],
    "flash": [
        {"d_key": 6, "chunk": 4},
        {"d_key": 8, "chunk": 5, "expansion": 1.5, "rotate": False},
        {"d_key": 4, "chunk": 64},
        {"d_key": 4, "chunk": 1},
    ],
    "performer": [
        {"n_heads": 3, "chunk": 4},
        {"n_heads": 2, "chunk": 5, "d_head": 6, "n_features": 17, "rotate": False},
        {"n_heads": 2, "chunk": 64, "feature": "relu", "n_features": 24},
    ],
    "log_linear": [
        {"n_heads": 3, "chunk": 2},
        {"n_heads": 4, "chunk": 4, "d_head": 5, "conv": 3},
        {"n_heads": 3, "chunk": 1, "conv": 1},
        {"n_heads": 3, "chunk": 64},
    ],
    "lightning": [
        {"n_heads": 4, "chunk": 4},
        {"n_heads": 3, "chunk": 5, "d_head": 6},
    ],
    "linear": [
        {"n_heads": 3, "chunk": 4},
        {"n_heads": 2, "chunk": 5, "d_head": 6, "rotate": False},
        {"n_heads": 2, "chunk": 8, "feature": "relu", "rotate": False},
        {"n_heads": 1, "chunk": 64, "feature": "relu2", "d_head": 8},
        {"n_heads": 3, "chunk": 3, "feature": "identity"},
    ],
    "hybrid": [  # the laws build layer 1, a whole model layers 0 and 1
        {
            "pattern": ["second", "first"],
            "first": GQA,
            "second": {"kind": "gqa", "gqa": {"n_heads": 2, "n_kv_heads": 2}},
        },
    ],
    "mla": [
        {"n_heads": 3, "d_nope": 6, "d_rope": 4, "d_value": 5, "q_rank": 10, "kv_rank": 8},
        {"n_heads": 2, "d_nope": 4, "d_rope": 2, "d_value": 8, "q_rank": None, "kv_rank": 6, "mscale": 1.3},
        {
            "n_heads": 2,
            "d_nope": 6,
            "d_rope": 4,
            "d_value": 6,
            "kv_rank": 12,
            "rotate": False,
            "norm_eps": 0.1,
        },
    ],
    "dsa": [
        {"n_heads": 4, "n_kv_heads": 2, "index_heads": 2, "index_dim": 8, "index_rope": 4, "top_k": 4},
        {"n_heads": 3, "n_kv_heads": 1, "qk_norm": True, "d_head": 6, "rotate": False, "top_k": 3},
        {"n_heads": 2, "n_kv_heads": 2, "index_heads": 3, "index_rope": 0, "stage": "warmup"},
        {
            "main": "mla",
            "n_heads": 3,
            "d_nope": 6,
            "d_rope": 4,
            "d_value": 5,
            "q_rank": 10,
            "kv_rank": 8,
            "index_heads": 2,
            "index_dim": 6,
            "index_rope": 4,
            "top_k": 5,
        },
        {"main": "mla", "n_heads": 2, "q_rank": None, "kv_rank": 6, "top_k": 20, "mscale": 1.3},
    ],
    "gqa": [
        {"n_heads": 4, "n_kv_heads": 2},
        {"n_heads": 3, "n_kv_heads": 3, "qk_norm": True},
        {"n_heads": 4, "n_kv_heads": 1, "d_head": 8, "rotate": False},
        {"n_heads": 4, "n_kv_heads": 2, "d_head": 8, "qk_norm": True, "gate": True},
    ],
}


def nsa_numbers(mixer, S):
    """All tokens, the complete summaries and one place for others, the latest tokens, the window."""
    summaries = max(0, (S - mixer.block) // mixer.stride + 1) + 1
    latest = mixer.block - 1 + (mixer.window if mixer.separate_kv else 0)
    return 2 * mixer.n_kv_heads * mixer.d_head * (S + summaries + latest)


def delta_numbers(mixer, S):
    """Of DeltaNet and its kin."""
    return mixer.n_heads * mixer.d_key * mixer.d_value + (mixer.conv.width - 1) * sum(mixer.parts)


def longformer_numbers(mixer, S):
    first, every = mixer.config.n_global, mixer.config.global_every
    table = [place for place in range(S) if place < first or (every and (place + 1) % every == 0)]
    return 2 * mixer.n_kv_heads * mixer.d_head * (mixer.window + (len(table) + S if first or every else 0))


# Numbers in the state of one row with room for S tokens, as a function of the mixer and S.
STATE_NUMBERS = {
    "nsa": nsa_numbers,
    "moba": lambda mixer, S: mixer.n_kv_heads * mixer.d_head * (2 * S + -(-S // mixer.block)),
    "delta": delta_numbers,
    "gated_delta": delta_numbers,
    "kda": delta_numbers,
    "mamba": lambda mixer, S: mixer.inner * (mixer.d_state + mixer.conv.width - 1),
    "mamba2": lambda mixer, S: (
        mixer.inner * mixer.config.d_state
        + (mixer.config.conv - 1) * (mixer.inner + 2 * mixer.config.n_groups * mixer.config.d_state)
    ),
    "rwkv4": lambda mixer, S: 4 * D,
    "rwkv7": lambda mixer, S: D * (mixer.d_head + 1),
    "rwkv_channel": lambda mixer, S: D,
    "sliding_window": lambda mixer, S: 2 * mixer.n_kv_heads * mixer.d_head * (mixer.window + mixer.sinks),
    "longformer": longformer_numbers,
    "flash": lambda mixer, S: 2 * mixer.d_key * mixer.d_value + mixer.chunk * (mixer.d_key + mixer.d_value),
    "performer": lambda mixer, S: (
        mixer.n_heads * (mixer.n_features * (mixer.d_head + 1) + (mixer.config.feature == "softmax"))
    ),
    "log_linear": lambda mixer, S: (
        mixer.n_heads * mixer.d_head * (mixer.d_head * (S - 1).bit_length() + 3 * (mixer.conv.width - 1))
    ),
    "lightning": lambda mixer, S: mixer.n_heads * mixer.d_head**2,
    "linear": lambda mixer, S: mixer.n_heads * mixer.d_head * (mixer.d_head + mixer.normalised),
    "hybrid": lambda mixer, S: 2 * mixer.n_kv_heads * mixer.d_head * S,
    "mla": lambda mixer, S: (mixer.latent.kv_rank + mixer.latent.d_rope) * S,
    "dsa": lambda mixer, S: (mixer.main.width + mixer.indexer.dim) * S,
    "gqa": lambda mixer, S: 2 * mixer.n_kv_heads * mixer.d_head * S,
}
