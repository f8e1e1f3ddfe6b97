"""DSA against loops over tokens, `transformers` (DeepSeek-V3.2) and fla; who learns from which loss."""

import importlib.metadata
import importlib.util
import math

import pytest
import torch
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from llm.nn.kernels import selected
from llm.nn.kernels.ranking import ranks
from llm.nn.kernels.selected import RowLayout, attend_selected
from llm.nn.mixers._indexer import Index, Indexer, Span
from llm.nn.mixers.base import Context
from llm.nn.mixers.dsa import Config
from llm.nn.position._rotary import interleaved_to_half
from tests.laws.mixer_laws import MAX_LEN, D, T, build, new_state, read, rows, run

J, DIM, ROPE, K = 5, 6, 4, 4
INDEX = {"index_heads": J, "index_dim": DIM, "index_rope": ROPE, "top_k": K}
GQA = INDEX | {"n_heads": 4, "n_kv_heads": 2}
MLA = INDEX | {
    "main": "mla", "n_heads": 3, "d_nope": 6, "d_rope": 4, "d_value": 5, "q_rank": 10, "kv_rank": 8,
}  # fmt: skip


def sparse(**values):
    """A mixer whose weights are large enough for sharp choices."""
    mixer, position = build("dsa", values)
    for name, parameter in mixer.named_parameters():
        mean = 1.0 if name.endswith(("gain", "key_norm.weight")) else 0.0
        torch.nn.init.normal_(parameter, mean, 0.3)
    return mixer, position


def learn(mixer, position, x, segments=None):
    """Output and the indexer's loss."""
    positions = torch.arange(x.shape[1])
    angles = position.angles(positions, x.dtype)
    context = Context(positions=positions, dtype=x.dtype, angles=angles, segments_BT=segments)
    y = mixer(x, position, context)
    assert len(context.losses) == 1
    return y, context.losses[0]


def turned(v, t, width):
    """The first `width` channels of one vector rotated by position t, pairs (i, i + width/2)."""
    out = v.clone()
    for i in range(width // 2):
        angle = t * 10000.0 ** (-2 * i / width)
        a, b = v[i], v[i + width // 2]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + width // 2] = a * math.sin(angle) + b * math.cos(angle)
    return out


def by_hand(mixer, x, *, top_k, warmup=False):
    """Output and loss of one row from the equations, one query, key and head at a time; main attention gqa."""
    main, indexer = mixer.main, mixer.indexer
    N, G, H = 4, 2, D // 4
    w_q, w_k, w_v = main.w_qkv.weight.split([N * H, G * H, G * H])
    source = x.detach()

    def layer_norm(v):
        centred = v - v.mean()
        return (
            indexer.key_norm.weight * centred / (centred.square().mean() + 1e-6).sqrt()
            + indexer.key_norm.bias
        )

    outputs, losses = [], []
    for t in range(len(x)):
        scores = []
        weights = indexer.w_weight.weight @ source[t] / math.sqrt(J)
        queries = (indexer.w_query.weight @ source[t]).view(J, DIM)
        for s in range(t + 1):
            key = turned(layer_norm(indexer.w_key.weight @ source[s]), s, ROPE)
            parts = [
                w * torch.relu(turned(q, t, ROPE) @ key / math.sqrt(DIM))
                for w, q in zip(weights, queries, strict=True)
            ]
            scores.append(sum(parts))
        order = sorted(range(t + 1), key=lambda s: (float(scores[s].detach()), s), reverse=True)
        chosen = sorted(order[:top_k])
        read_by_main = range(t + 1) if warmup else chosen
        probs, heads = [], []
        for n in range(N):
            g = n * G // N
            q = turned((w_q @ x[t]).view(N, H)[n], t, H)
            dots = [q @ turned((w_k @ x[s]).view(G, H)[g], s, H) / math.sqrt(H) for s in read_by_main]
            p = torch.softmax(torch.stack(dots), 0)
            probs.append(p.detach())
            heads.append(
                sum(p_s * (w_v @ x[s]).view(G, H)[g] for p_s, s in zip(p, read_by_main, strict=True))
            )
        outputs.append(mixer.w_o.weight @ torch.cat(heads))
        target = torch.stack(probs).sum(0)
        target = target / target.sum()
        log_q = torch.log_softmax(torch.stack([scores[s] for s in read_by_main]), 0)
        losses.append((target * (target.log() - log_q)).sum())
    return torch.stack(outputs), torch.stack(losses).mean()


@pytest.mark.parametrize("stage", ["sparse", "warmup"])
@pytest.mark.parametrize("tile", [1 << 19, 200], ids=["one_tile", "tiles"])
def test_equals_the_equations_with_gradients(monkeypatch, stage, tile):
    monkeypatch.setattr(selected, "TILE_NUMBERS", tile)
    mixer, position = sparse(**GQA, stage=stage)
    x = rows(1).requires_grad_()
    y, loss = learn(mixer, position, x)
    wanted, wanted_loss = by_hand(mixer, x[0], top_k=K, warmup=stage == "warmup")
    torch.testing.assert_close(y[0], wanted, atol=1e-10, rtol=0)
    torch.testing.assert_close(loss, wanted_loss, atol=1e-10, rtol=0)
    weight = torch.randn_like(y)
    inputs = [x, *mixer.parameters()]
    mine = torch.autograd.grad((y * weight).sum() + loss, inputs)
    theirs = torch.autograd.grad((wanted * weight[0]).sum() + wanted_loss, inputs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


@pytest.mark.parametrize("stage", ["sparse", "warmup"])
@pytest.mark.parametrize("values", [GQA, MLA], ids=["gqa", "mla"])
def test_neither_loss_reaches_the_other_side(values, stage):
    mixer, position = sparse(**values, stage=stage)
    x = rows(2).requires_grad_()
    y, loss = learn(mixer, position, x)
    indexer = list(mixer.indexer.parameters())
    backbone = [x, *(p for name, p in mixer.named_parameters() if not name.startswith("indexer."))]
    of_output = torch.autograd.grad(y.square().sum(), indexer, retain_graph=True, allow_unused=True)
    assert of_output == (None,) * len(indexer)
    of_loss = torch.autograd.grad(loss, backbone, retain_graph=True, allow_unused=True)
    assert of_loss == (None,) * len(backbone)
    assert all(grad.abs().max() > 0 for grad in torch.autograd.grad(loss, indexer, retain_graph=True))
    assert all(grad.abs().max() > 0 for grad in torch.autograd.grad(y.square().sum(), backbone))


@pytest.mark.parametrize("stage", ["sparse", "warmup"])
@pytest.mark.parametrize("values", [GQA, MLA], ids=["gqa", "mla"])
def test_gradient_of_the_loss_is_that_of_finite_differences(values, stage):
    mixer, position = sparse(**values, stage=stage)
    names = [name for name, _ in mixer.named_parameters() if name.startswith("indexer.")]
    x, segments = rows(1, 9), torch.tensor([[1, 1, 2, 2, 2, 2, 2, 2, 0]])

    def loss(*weights):
        angles = position.angles(torch.arange(9), x.dtype)
        context = Context(positions=torch.arange(9), dtype=x.dtype, angles=angles, segments_BT=segments)
        functional_call(mixer, dict(zip(names, weights, strict=True)), (x, position, context))
        return context.losses[0]

    parameters = dict(mixer.named_parameters())
    assert torch.autograd.gradcheck(loss, [parameters[name] for name in names], fast_mode=True)


def test_loss_is_the_mean_over_tokens_that_are_no_padding():
    mixer, position = sparse(**GQA)
    x = rows(1, 14)
    segments = torch.tensor([[1] * 8 + [2] * 3 + [0] * 3])
    _, packed = learn(mixer, position, x, segments)
    _, first = learn(mixer, position, x[:, :8])
    _, second = learn(mixer, position, x[:, 8:11])
    torch.testing.assert_close(packed, (8 * first + 3 * second) / 11, atol=1e-12, rtol=0)


def test_no_loss_outside_of_training():
    mixer, position = build("dsa", GQA)
    x = rows(1)
    context = Context(
        positions=torch.arange(T), dtype=x.dtype, angles=position.angles(torch.arange(T), x.dtype)
    )
    with torch.no_grad():
        mixer(x, position, context)
    mixer.eval()(x, position, context)
    assert context.losses == []


@pytest.mark.parametrize("values", [GQA | {"top_k": T}, GQA | {"top_k": 99}, GQA | {"stage": "warmup"}])
def test_choosing_everything_is_dense_attention(values):
    mixer, position = sparse(**values)
    dense, _ = build("gqa", {"n_heads": 4, "n_kv_heads": 2})
    dense.w_qkv.weight, dense.w_o.weight = mixer.main.w_qkv.weight, mixer.w_o.weight
    x = rows(2)
    torch.testing.assert_close(run(mixer, position, x), run(dense, position, x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("values", [MLA | {"top_k": T}, MLA | {"top_k": 99}, MLA | {"stage": "warmup"}])
def test_choosing_everything_is_dense_latent_attention(values):
    mixer, position = sparse(**values)
    dense, _ = build("mla", {key: values[key] for key in values if key[:2] in ("n_", "d_", "q_", "kv")})
    dense.load_state_dict(
        {
            name.replace("main.", "latent."): tensor
            for name, tensor in mixer.state_dict().items()
            if not name.startswith("indexer.")
        }
    )
    x = rows(2)
    torch.testing.assert_close(run(mixer, position, x), run(dense, position, x), atol=1e-12, rtol=0)


def test_choosing_all_but_one_is_not():
    mixer, position = sparse(**GQA | {"top_k": T - 1})
    dense, _ = sparse(**GQA | {"top_k": T})
    dense.load_state_dict(mixer.state_dict())
    x = rows(1)
    difference = (run(mixer, position, x) - run(dense, position, x)).abs().amax(-1)[0]
    assert difference[:-1].max() < 1e-12
    assert difference[-1] > 1e-6


def test_both_stages_have_one_loss_where_everything_is_chosen():
    mixer, position = sparse(**GQA)
    index = mixer.indexer.project(rows(2), rows(2), position, position.angles(torch.arange(T), torch.float64))
    span = Span(first_BT=torch.zeros(1, T), last_BT=torch.arange(T)[None])
    chosen = torch.stack([torch.randperm(T) for _ in range(2 * T)]).view(2, T, T)
    share = torch.rand(2, T, T).double().tril()
    share /= share.sum(-1, keepdim=True)
    of_all = mixer.indexer.divergence_all(index, span, lambda begin, end: share[:, begin:end, :end])
    of_chosen = mixer.indexer.divergence_chosen(index, span, chosen, share.gather(-1, chosen))
    torch.testing.assert_close(of_all, of_chosen, atol=1e-12, rtol=0)
    assert of_all[:, 0].abs().max() < 1e-12
    assert of_all[:, 1:].min() > 0


# ---------------------------------------------------------------- choice


def test_of_equal_scores_the_later_token_wins_in_every_form():
    scores = torch.tensor([[0.0, -0.0, 2.0, -1.0, 0.0, -3.0, 2.0, -0.5]])
    order = ranks(scores).sort(descending=True).indices
    assert order.tolist() == [[6, 2, 4, 1, 0, 7, 3, 5]]
    mixer, position = sparse(**GQA)
    torch.nn.init.zeros_(mixer.indexer.w_weight.weight)  # all scores equal: the last K tokens are read
    x = rows(1)
    y = run(mixer, position, x)
    state = new_state(mixer, 1)
    steps = torch.cat([read(mixer, position, state, x[:, t : t + 1]) for t in range(T)], dim=1)
    torch.testing.assert_close(steps, y, atol=1e-10, rtol=0)
    forgotten = x.clone()
    forgotten[:, : T - K] += 1
    torch.testing.assert_close(run(mixer, position, forgotten)[:, -1], y[:, -1], atol=1e-12, rtol=0)


def test_choice_takes_only_visible_tokens_while_there_are_enough():
    torch.manual_seed(0)
    indexer = Indexer(D, D, heads=J, dim=DIM, rope=0).double()
    index = Index(
        q_BTJI=torch.randn(2, T, J, DIM).double(), weight_BTJ=torch.randn(2, T, J).double(),
        k_BSI=torch.randn(2, T, DIM).double(),
    )  # fmt: skip
    first = torch.tensor([[0] * 6 + [6] * 7])
    span = Span(first_BT=first, last_BT=torch.arange(T)[None])
    chosen = indexer.choose(index, span, K)
    allowed = span.allows(chosen)
    for t in range(T):
        visible = t + 1 - int(first[0, t])
        assert allowed[:, t].sum(-1).tolist() == [min(K, visible)] * 2
        assert all(len(set(row.tolist())) == K for row in chosen[:, t])


class Largest(TorchDispatchMode):
    """The largest tensor any operation makes, forward and backward."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("values", [GQA, MLA], ids=["gqa", "mla"])
def test_sparse_stage_makes_no_square_tensor(monkeypatch, values):
    monkeypatch.setattr(selected, "TILE_NUMBERS", 4000)
    monkeypatch.setattr("tests.laws.mixer_laws.MAX_LEN", 256)
    mixer, position = sparse(**values)
    x = rows(1, 256).requires_grad_()
    with Largest() as largest:
        y, loss = learn(mixer, position, x)
        (y.sum() + loss).backward()
    assert largest.numel < 256 * 256 / 3  # T * (N + 2 G) * H and the like: linear in T


def test_decoding_reads_top_k_rows_of_the_cache():
    mixer, position = build("dsa", MLA | {"top_k": 3})
    state = new_state(mixer, 1)
    x = rows(1, MAX_LEN)
    read(mixer, position, state, x[:, :-1])
    chosen = []
    choose = mixer.indexer.choose
    mixer.indexer.choose = lambda *args: chosen.append(choose(*args)) or chosen[-1]
    y = read(mixer, position, state, x[:, -1:])
    mark = (state.lengths_B - 1, state.longest - 1)
    state.rollback(mark)
    others = [s for s in range(MAX_LEN - 1) if s not in chosen[0].flatten().tolist()]
    state.tables["rows"][:, others] = float("nan")
    torch.testing.assert_close(read(mixer, position, state, x[:, -1:]), y, atol=0, rtol=0)


# ---------------------------------------------------------------- oracles


def fla_dsa():
    """The reference file of fla alone: importing the package would need triton."""
    path = importlib.metadata.distribution("fla-core").locate_file("fla") / "ops" / "dsa" / "naive.py"
    spec = importlib.util.spec_from_file_location("fla_naive_dsa", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_choice_and_attention_equal_fla_with_gradients():
    theirs = fla_dsa()
    torch.manual_seed(3)
    B, S, N, G, H, heads = 2, 29, 4, 2, 6, 8
    q, k, v = (torch.randn(B, S, n, H, requires_grad=True) for n in (N, G, G))
    q_index, k_index, weight = torch.randn(B, S, heads, DIM), torch.randn(B, S, DIM), torch.randn(B, S, heads)
    indices = theirs.naive_dsa_indexer(q_index, k_index, weight, topk=7, activation="relu")
    indexer = Indexer(D, D, heads=heads, dim=DIM, rope=0)
    span = Span(first_BT=torch.zeros(1, S, dtype=torch.long), last_BT=torch.arange(S)[None])
    index = Index(q_BTJI=q_index, weight_BTJ=weight * DIM**-0.5, k_BSI=k_index)
    chosen = indexer.choose(index, span, 7)
    allowed = span.allows(chosen)
    mine = torch.where(allowed, chosen, -1).sort(-1).values
    assert torch.equal(mine, indices.sort(-1).values)

    layout = RowLayout(
        keys=tuple(slice(g * H, (g + 1) * H) for g in range(G)),
        values=tuple(slice((G + g) * H, (G + g + 1) * H) for g in range(G)),
    )
    kv = torch.cat([k, v], dim=2).flatten(2)
    out, _ = attend_selected(q.transpose(1, 2), kv, chosen, allowed, layout, H**-0.5)
    wanted = theirs.naive_dsa(q, k, v, None, None, indices=indices)
    torch.testing.assert_close(out.transpose(1, 2), wanted, atol=1e-6, rtol=0)
    upstream = torch.randn_like(wanted)
    grads = torch.autograd.grad((out.transpose(1, 2) * upstream).sum(), (q, k, v))
    for a, b in zip(grads, torch.autograd.grad((wanted * upstream).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(a, b, atol=3e-6, rtol=0)


def to_hf(tensors):
    """Our weights (or gradients) by the names of `transformers`; the main attention pairs neighbours there, the
    indexer halves as here."""
    N, NOPE, R = 3, 6, 4
    back = torch.argsort(interleaved_to_half(R))
    q_low, c, k_rope = tensors["main.w_in.weight"].split([10, 8, R])
    q = tensors["main.w_q.weight"].unflatten(0, (N, NOPE + R)).clone()
    q[:, NOPE:] = q[:, NOPE:][:, back]
    out = {
        "q_a_proj.weight": q_low, "q_a_layernorm.weight": tensors["main.q_norm.gain"],
        "q_b_proj.weight": q.flatten(0, 1), "kv_a_proj_with_mqa.weight": torch.cat([c, k_rope[back]]),
        "kv_a_layernorm.weight": tensors["main.kv_norm.gain"], "kv_b_proj.weight": tensors["main.w_kv.weight"],
        "o_proj.weight": tensors["w_o.weight"],
    }  # fmt: skip
    names = {"w_query": "wq_b", "w_key": "wk", "key_norm": "k_norm", "w_weight": "weights_proj"}
    for ours, theirs in names.items():
        for end in ("weight", "bias"):
            if f"indexer.{ours}.{end}" in tensors:
                out[f"indexer.{theirs}.{end}"] = tensors[f"indexer.{ours}.{end}"]
    return out


@pytest.mark.parametrize("top_k", [3, 6, 40])
def test_equals_deepseek_v32(top_k):
    from transformers.models.deepseek_v32 import modeling_deepseek_v32 as theirs
    from transformers.models.deepseek_v32.configuration_deepseek_v32 import DeepseekV32Config

    mixer, position = sparse(**MLA | {"index_heads": 8, "top_k": top_k})
    config = DeepseekV32Config(
        hidden_size=D, num_attention_heads=3, num_key_value_heads=3, qk_nope_head_dim=6, qk_rope_head_dim=4,
        v_head_dim=5, q_lora_rank=10, kv_lora_rank=8, index_topk=top_k, index_head_dim=DIM, index_n_heads=8,
        num_hidden_layers=2, attn_implementation="eager",
    )  # fmt: skip
    reference = theirs.DeepseekV32Attention(config, 0).double()
    reference.load_state_dict(to_hf({name: p.detach() for name, p in mixer.named_parameters()}))
    S = MAX_LEN
    cos_sin = theirs.DeepseekV32RotaryEmbedding(config)(torch.zeros(1).double(), torch.arange(S)[None])
    mask = torch.full((S, S), float("-inf")).double().triu(1).expand(2, 1, S, S)
    x = rows(2, S).requires_grad_()
    wanted, _ = reference(x, cos_sin, mask)
    y = run(mixer, position, x)
    torch.testing.assert_close(y, wanted, atol=1e-6, rtol=0)
    upstream = torch.randn_like(y)
    ours = {n: p for n, p in mixer.named_parameters() if not n.startswith("indexer.")}
    hf = {n: p for n, p in reference.named_parameters() if not n.startswith("indexer.")}
    d_x, *mine = torch.autograd.grad((y * upstream).sum(), [x, *ours.values()])
    d_x_hf, *hf_grads = torch.autograd.grad((wanted * upstream).sum(), [x, *hf.values()])
    mapped = to_hf(dict(zip(ours, mine, strict=True)))
    assert sorted(mapped) == sorted(hf)
    pairs = [(d_x, d_x_hf), *((mapped[name], grad) for name, grad in zip(hf, hf_grads, strict=True))]
    for a, b in pairs:  # they normalise and rotate in float32 whatever the input
        assert (a - b).abs().max() < 1e-6 * b.abs().max().clamp(min=1)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_k": 0}, r"top_k \(0\) must be positive"),
        ({"n_kv_heads": 0}, r"n_kv_heads \(0\) must be positive"),
        ({"index_heads": 0}, r"index_heads \(0\) must be positive"),
        ({"index_dim": 0, "index_rope": 0}, r"index_dim \(0\) must be positive"),
        ({"n_heads": 3}, r"n_heads \(3\) must be a multiple of n_kv_heads \(2\)"),
        ({"index_rope": 33}, r"index_rope \(33\) must be 0 to index_dim \(32\)"),
        ({"kv_rank": 0}, r"kv_rank \(0\) must be positive"),
    ],
)
def test_settings_that_make_no_mixer(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"d_model \(24\) must be a multiple of n_heads \(5\)"):
        build("dsa", {"n_heads": 5, "n_kv_heads": 1})
