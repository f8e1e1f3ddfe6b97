"""explore: one picture of a mixer: what a token can see, what it does read, and what remembering costs.

Read off the mixer itself, by gradients, so that the same picture can be drawn of softmax attention, a
recurrence and everything between. Influence of token j on token i, in one layer:

    J[i, j] = || d (r . y_i) / d x_j ||, averaged over random r        (a row is divided by its sum)

Shapes      T tokens, D d_model
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm import registry
from llm.commands.talk import model_folder
from llm.nn.io import load_model
from llm.nn.mixers.base import Context, Mixer
from llm.nn.model import Decoder, ModelConfig
from llm.params import from_dict
from llm.runtime import atomic_file
from llm.tokenizer.base import load_tokenizer

TEXT = "The old man took the fish to the king, and the king gave the old man a ring."
LENGTHS = [2**power for power in range(6, 14)]
PROBES = 4
SEEN_T = 64
FRESH: dict[str, dict[str, int]] = {  # windows and blocks small enough to be seen among 64 tokens
    "gqa": {"n_heads": 4, "n_kv_heads": 2},
    "sliding_window": {"window": 16},
    "longformer": {"window": 8, "global_every": 16},
    "dsa": {"top_k": 8},
    "moba": {"block": 8, "top_k": 2},
    "nsa": {"block": 4, "stride": 2, "select": 4, "top_k": 4, "window": 4},
}


@dataclass(frozen=True)
class Exploration:
    """name: of the mixer; reach_TT: how often a token has any influence, 0 .. 1; weights_TT: share of its
    influence, rows sum to 1; labels: the tokens of the sentence; state_bytes: of one row and layer, by length."""

    name: str
    reach_TT: Tensor
    weights_TT: Tensor
    labels: list[str]
    state_bytes: dict[int, int]


def attention(name: str, *, text: str = TEXT, layer: int = -1, out: Path | None = None) -> tuple[Path, str]:
    """Draw the mixer `name` (a kind: fresh weights; else a model folder: learned ones); (picture, summary).

    Raises:
        ValueError: neither a kind nor a model folder; no such layer; a text of fewer than two tokens.
    """
    found = explore(name, text=text, layer=layer)
    target = out or Path("report") / f"attention_{found.name}.png"
    draw(found, target)
    return target, summary(found)


def explore(name: str, *, text: str, layer: int) -> Exploration:
    """Measure one layer of a model, or a fresh model of one kind on random inputs."""
    torch.manual_seed(0)
    if name in registry.kinds("llm.nn.mixers"):
        model, labels = fresh_model(name), [str(t) for t in range(32)]
        inputs = torch.randn(1, len(labels), model.config.d_model)
        kind = name
    else:
        model, labels, inputs, kind = learned(name, text, layer)
    mixer = _mixer(model, layer)
    probes = torch.randn(PROBES, model.config.d_model)
    weights_TT = influence(lambda x: _run(mixer, model, x), inputs, probes)
    reach_TT = torch.stack(
        [
            influence(lambda x: _run(mixer, model, x), torch.randn(1, SEEN_T, model.config.d_model), probes)
            > 0
            for _ in range(PROBES)
        ]
    )
    return Exploration(
        name=kind,
        reach_TT=reach_TT.float().mean(0),
        weights_TT=weights_TT / weights_TT.sum(-1, keepdim=True).clamp_min(1e-30),
        labels=labels,
        state_bytes=state_bytes(roomy(model), layer),
    )


def fresh_model(kind: str) -> Decoder:
    """A model of two layers with the defaults of `kind`, or its settings in FRESH."""
    mixer: dict[str, Any] = {"kind": kind} | FRESH.get(kind, {})
    if kind == "hybrid":
        raise ValueError("llm explore attention: hybrid has a mixer for each layer; name one of its parts")
    data = {
        "d_model": 128, "n_layers": 2, "max_len": 512, "tied_head": True, "mixer": mixer,
        "ffn": {"kind": "swiglu"}, "norm": {"kind": "rmsnorm"}, "position": {"kind": "rope"},
        "init": {"kind": "gpt2", "std": 0.1},
    }  # fmt: skip
    return Decoder(from_dict(ModelConfig, data, kind), 8).eval()


def learned(name: str, text: str, layer: int) -> tuple[Decoder, list[str], Tensor, str]:
    """(model, tokens of the text, what the layer's mixer reads on it, kind of the mixer) of a model folder."""
    folder = model_folder(name)
    model = load_model(folder)
    mixer = _mixer(model, layer)
    tokenizer = load_tokenizer(folder / "tokenizer")
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        raise ValueError(f"llm explore attention: the text has {len(ids)} tokens; give at least 2")
    seen: list[Tensor] = []
    handle = mixer.register_forward_pre_hook(lambda _module, args: seen.append(args[0].detach()))
    with torch.no_grad():
        model(torch.tensor([[tokenizer.eot_id, *ids]]))
    handle.remove()
    labels = ["·", *(tokenizer.decode([index]).replace(" ", "␣") for index in ids)]
    return model, labels, seen[0], type(mixer).__module__.rsplit(".", 1)[-1]


def influence(mixer: Callable[[Tensor], Tensor], x_1TD: Tensor, probes_PD: Tensor) -> Tensor:
    """J [T, T]: how strongly output i depends on input j."""
    T = x_1TD.shape[1]
    x_1TD = x_1TD.detach().requires_grad_()
    y_TD = mixer(x_1TD)[0]
    total_TT = torch.zeros(T, T)
    for i in range(T):
        for probe in probes_PD:
            [grad_1TD] = torch.autograd.grad(y_TD[i] @ probe, x_1TD, retain_graph=True)
            total_TT[i] += grad_1TD[0].norm(dim=-1) / len(probes_PD)
    return total_TT


def roomy(model: Decoder) -> Decoder:
    """The same model, with fresh weights, for rows as long as the longest of LENGTHS."""
    return Decoder(replace(model.config, max_len=max(LENGTHS)), model.vocab_size)


def state_bytes(model: Decoder, layer: int) -> dict[int, int]:
    """Bytes of the decoding state of one row and layer in float32, by the length it has room for."""
    mixer, device = _mixer(model, layer), torch.device("cpu")
    return {n: mixer.init_state(1, n, device=device, dtype=torch.float32).nbytes for n in LENGTHS}


def summary(found: Exploration) -> str:
    """The picture in one line of words."""
    T = len(found.reach_TT)
    seen = float((found.reach_TT > 0).sum(-1).float().mean())
    short, long = min(found.state_bytes), max(found.state_bytes)
    return (
        f"{found.name}: of {T} tokens a query reaches {seen:.1f} on average ({(T + 1) / 2} is all of the past); "
        f"state of a layer {found.state_bytes[short]:,} bytes at {short} tokens, {found.state_bytes[long]:,} at {long}"
    )


def draw(found: Exploration, path: Path) -> None:
    """Three panels: reach, weights on the sentence, state size beside a full cache."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    reach, weights, state = figure.subplots(1, 3, width_ratios=[1, 1.25, 1])
    reach.imshow(found.reach_TT, cmap="Blues", vmin=0, vmax=1)
    reach.set(title=f"{found.name}: what a token can see", xlabel="token read", ylabel="token reading")
    image = weights.imshow(found.weights_TT.sqrt(), cmap="magma", vmin=0)
    weights.set(title="what it does read (square root of the share)")
    weights.set_xticks(range(len(found.labels)), found.labels, rotation=90, fontsize=7)
    weights.set_yticks(range(len(found.labels)), found.labels, fontsize=7)
    figure.colorbar(image, ax=weights, shrink=0.8)
    full = state_bytes(roomy(fresh_model("gqa")), 0)
    state.plot(list(full), list(full.values()), "--", color="0.6", label="gqa, 4 heads over 2, d_model 128")
    state.plot(list(found.state_bytes), list(found.state_bytes.values()), "o-", label=found.name)
    state.set(title="state of one layer", xlabel="tokens", ylabel="bytes", xscale="log", yscale="log")
    state.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, mode="wb") as handle:
        figure.savefig(handle, format="png", dpi=90, metadata={"Software": None})


def _mixer(model: Decoder, layer: int) -> Mixer[Any]:
    if not -len(model.layers) <= layer < len(model.layers):
        raise ValueError(f"llm explore attention: --layer {layer}; the model has {len(model.layers)} layers")
    return model.layers[layer].mixer


def _run(mixer: Mixer[Any], model: Decoder, x_1TD: Tensor) -> Tensor:
    context: Context = model.context(x_1TD.shape[1], None, x_1TD)
    y_1TD: Tensor = mixer(x_1TD, model.position, context)
    return y_1TD
