"""Laws of the training loop: accumulation equals a big batch, resuming equals going on, one batch is learned."""

import dataclasses
import json
import math
import os
import random
import signal

import pytest
import torch

from llm import runtime
from llm.nn.ffn import moe_deepseek, swiglu
from llm.nn.init import gpt2
from llm.nn.mixers import gqa, performer
from llm.nn.model import Decoder, ModelConfig
from llm.nn.norm import batchnorm, rmsnorm
from llm.nn.objective import Loss, TokenBatch, next_token_loss
from llm.nn.position import rope
from llm.optim import adamw, muon
from llm.optim._groups import OptimizerParams
from llm.optim.schedules import cosine
from llm.train import checkpoint
from llm.train.loop import LoopParams, train

VOCAB, T = 19, 12
CONFIG = ModelConfig(
    d_model=16,
    n_layers=2,
    max_len=T,
    tied_head=True,
    mixer=gqa.Config(n_heads=2, n_kv_heads=1, qk_norm=True),
    ffn=swiglu.Config(d_ff=24),
    norm=rmsnorm.Config(),
    position=rope.Config(),
    init=gpt2.Config(),
)


def make_model(seed=0):
    torch.manual_seed(seed)
    return Decoder(CONFIG, VOCAB)


def make_batch(seed, rows=8):
    """Rows whose micro-batches score different numbers of targets."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (rows, T + 1), generator=generator)
    mask = torch.rand(rows, T, generator=generator) < torch.linspace(0.3, 1.0, rows)[:, None]
    mask[:, 0] = True
    return TokenBatch(tokens[:, :-1], tokens[:, 1:], mask)


def cut(batch, rows):
    pieces = [field.split(rows) for field in (batch.tokens_BT, batch.targets_BT, batch.mask_BT)]
    return [TokenBatch(*piece) for piece in zip(*pieces, strict=True)]


class Rows:
    """A source that is a pure function of the step; `on_step` may do harm."""

    def __init__(self, micro_rows=8, fixed=False, on_step=None):
        self.micro_rows, self.fixed, self.on_step = micro_rows, fixed, on_step

    def micro_batches(self, step):
        if self.on_step is not None:
            self.on_step(step)
        return cut(make_batch(0 if self.fixed else step), self.micro_rows)


def loop_params(**fields):
    defaults = {
        "steps": 10,
        "log_every": 2,
        "eval_every": 0,
        "save_every": 0,
        "grad_clip": 1.0,
        "precision": "fp32",
        "optimizer": OptimizerParams(matrices=muon.Config(lr=0.02), rest=adamw.Config(lr=0.01)),
        "schedule": cosine.Config(warmup_frac=0.2),
    }
    return LoopParams(**{**defaults, **fields})


def run(model, source, params, *, objective=next_token_loss, fingerprint="f", **kwargs):
    return train(
        model, objective, source, params, stage="pretrain", seed=1, fingerprint=fingerprint, **kwargs
    )


def weights(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype == torch.float32
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(autouse=True)
def _work_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.chdir(tmp_path)  # no params.yaml: tracking falls back to jsonl


# ---------------------------------------------------------------- accumulation


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("micro_rows", [1, 3])
def test_micro_batches_equal_one_batch(precision, micro_rows):
    # AdamW's first steps are the sign of the gradient, so momentum-free equality is checked through its eps.
    rest = adamw.Config(lr=0.01, eps=1e-2)
    params = loop_params(optimizer=OptimizerParams(matrices=rest, rest=rest), precision=precision, steps=4)
    whole, parts = make_model(), make_model()
    one = run(whole, Rows(8), params, fingerprint="a")
    many = run(parts, Rows(micro_rows), params, fingerprint="b")
    tolerance = 1e-6 if precision == "fp32" else 2e-3
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], weight, rtol=0, atol=tolerance)
    for a, b in zip(one.history, many.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6 if precision == "fp32" else 1e-2)


def test_the_loss_is_a_mean_over_all_scored_targets_of_the_step():
    model = make_model()
    expected = next_token_loss(model, make_batch(0))
    result = run(model, Rows(1), loop_params(steps=1, log_every=1))
    assert result.history[0]["loss"] == pytest.approx(expected.sum.item() / expected.count, rel=1e-6)


def test_a_step_equals_plain_autograd_and_torch_optimizers():
    ours, plain = make_model(), make_model()
    rest = adamw.Config(lr=0.01, weight_decay=0.0)
    params = loop_params(
        optimizer=OptimizerParams(matrices=rest, rest=rest), steps=3, grad_clip=0.5, log_every=1
    )
    history = run(ours, Rows(2), params).history
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = cosine.build(params.schedule, 3)
    for step in range(3):
        loss = next_token_loss(plain, make_batch(step))
        (loss.sum / loss.count).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * schedule.factor(step)
        optimizer.step()
        optimizer.zero_grad()
        assert history[step]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
        assert history[step]["lr_frac"] == schedule.factor(step)
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(ours)[name], weight, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_batch_is_learned_by_heart(precision):
    model = make_model()
    params = loop_params(steps=80, log_every=80, precision=precision)
    run(model, Rows(fixed=True), params)
    loss = next_token_loss(model, make_batch(0))
    assert loss.sum.item() / loss.count < 0.2 < math.log(VOCAB)
    assert all(param.dtype == torch.float32 for param in model.parameters())
    assert not model.training


def test_bf16_weights_are_roundings_of_float32_masters():
    model = make_model()
    seen = []

    def objective(m, batch):
        assert all(param.dtype == torch.bfloat16 for param in m.parameters())
        seen.append(weights(m))
        return next_token_loss(m, batch)

    run(model, Rows(), loop_params(steps=2, precision="bf16", save_every=1), objective=objective)
    masters = checkpoint.load(checkpoint.work_folder("pretrain", "f") / "latest.pt", ("masters",))["masters"]
    assert_equal(weights(model), masters)
    assert any(not torch.equal(w, w.bfloat16().float()) for w in masters.values())
    assert len(seen) == 2
    assert not torch.equal(seen[0]["blocks.0.mixer.w_o.weight"], seen[1]["blocks.0.mixer.w_o.weight"])


# ---------------------------------------------------------------- resuming


def evaluator(model, calls=None):
    """Deterministic, and it uses random numbers that must not disturb training."""

    def evaluate():
        torch.rand(3)
        batch = make_batch(99)
        loss = next_token_loss(model, batch)
        if calls is not None:
            calls.append(loss.sum.item())
        return {"val": loss.sum.item() / loss.count}

    return evaluate


def stop_at(step, number=signal.SIGTERM):
    return lambda now: os.kill(os.getpid(), number) if now == step else None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ten_steps_equal_five_and_a_resume(precision, number):
    params = loop_params(precision=precision, log_every=3, eval_every=4)
    whole = make_model()
    expected = run(whole, Rows(3), params, fingerprint="whole", evaluate=evaluator(whole), best="val")
    handler_before = signal.getsignal(number)  # a shell starts background jobs with SIGINT ignored
    first = make_model()
    with pytest.raises(runtime.Interrupted, match="step 5 is saved"):
        run(first, Rows(3, on_step=stop_at(4, number)), params, evaluate=evaluator(first), best="val")
    second = make_model(seed=5)  # whatever it starts from, the checkpoint wins
    steps = []
    result = run(second, Rows(3, on_step=steps.append), params, evaluate=evaluator(second), best="val")
    assert steps == [5, 6, 7, 8, 9]
    assert_equal(weights(second), weights(whole))
    assert result.history == expected.history
    assert result.best_step == expected.best_step
    torch.manual_seed(0)
    assert signal.getsignal(number) == handler_before


def test_random_numbers_of_training_survive_a_resume():
    def noisy(model, batch):
        loss = next_token_loss(model, batch)
        return Loss(loss.sum * (1 + torch.rand(())), loss.count)

    whole, cut_short = make_model(), make_model()
    params = loop_params(steps=6)
    run(whole, Rows(), params, objective=noisy, fingerprint="whole")
    with pytest.raises(runtime.Interrupted):
        run(cut_short, Rows(on_step=stop_at(2)), params, objective=noisy)
    torch.manual_seed(123)
    run(cut_short, Rows(), params, objective=noisy)
    assert_equal(weights(cut_short), weights(whole))


def test_evaluation_does_not_change_training():
    plain, watched = make_model(), make_model()
    run(plain, Rows(), loop_params(), fingerprint="a")
    run(
        watched,
        Rows(),
        loop_params(eval_every=1, telemetry_every=2),
        fingerprint="b",
        evaluate=evaluator(watched),
    )
    assert_equal(weights(plain), weights(watched))


def final_bytes(model, result):
    tensors = b"".join(weight.numpy().tobytes() for weight in weights(model).values())
    return tensors + json.dumps(result.history).encode() + str(result.best_step).encode()


def test_kill_9_at_a_random_step_and_resume_give_the_same_bytes():
    params = loop_params(steps=20, save_every=3, eval_every=5, precision="bf16")
    whole = make_model()
    expected = run(whole, Rows(3), params, fingerprint="whole", evaluate=evaluator(whole), best="val")
    step = random.randrange(20)
    model = make_model()
    child = os.fork()
    if child == 0:  # the process that is killed
        run(
            model,
            Rows(3, on_step=stop_at(step, signal.SIGKILL)),
            params,
            evaluate=evaluator(model),
            best="val",
        )
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    steps = []
    resumed = run(model, Rows(3, on_step=steps.append), params, evaluate=evaluator(model), best="val")
    assert steps[0] == step - step % 3, "resumes at the last saved step"
    assert final_bytes(model, resumed) == final_bytes(whole, expected), f"killed at step {step}"
    best = [checkpoint.load(r.best_weights, ("weights",))["weights"] for r in (resumed, expected)]
    assert_equal(*best)


def test_a_finished_run_is_not_trained_again_until_its_folder_is_removed():
    params = loop_params(steps=4)
    first, second = make_model(), make_model(seed=3)
    run(first, Rows(), params)
    result = run(second, Rows(on_step=lambda step: pytest.fail("trained again")), params)
    assert_equal(weights(first), weights(second))
    assert len(result.history) == 2
    result.finish()
    assert not result.work.exists()


# ---------------------------------------------------------------- what changes by rule and not by gradient


RULED = dataclasses.replace(
    CONFIG,
    ffn=moe_deepseek.Config(n_experts=6, n_active=2, d_ff=8, bias_rate=0.013),
    norm=batchnorm.Config(),
)


def ruled_model(seed=0):
    torch.manual_seed(seed)
    return Decoder(RULED, VOCAB)


def everything(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def test_random_features_are_drawn_anew_and_survive_a_resume():
    config = dataclasses.replace(CONFIG, mixer=performer.Config(n_heads=2, n_features=8, redraw_every=2))
    models = []
    for seed in (0, 0, 5):
        torch.manual_seed(seed)
        models.append(Decoder(config, VOCAB))
    whole, first, second = models
    before = whole.blocks[0].mixer.directions.clone()
    run(whole, Rows(3), loop_params(), fingerprint="drawn")
    with pytest.raises(runtime.Interrupted):
        run(first, Rows(3, on_step=stop_at(4)), loop_params(), fingerprint="drawn again")
    run(second, Rows(3), loop_params(), fingerprint="drawn again")
    assert not torch.equal(whole.blocks[0].mixer.directions, before)
    resumed, expected = everything(second), everything(whole)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_buffers_survive_a_resume_bit_for_bit(precision):
    params = loop_params(precision=precision, eval_every=4)
    whole, first, second = ruled_model(), ruled_model(), ruled_model(seed=5)
    expected = run(whole, Rows(3), params, fingerprint="whole", evaluate=evaluator(whole), best="val")
    with pytest.raises(runtime.Interrupted, match="step 5 is saved"):
        run(first, Rows(3, on_step=stop_at(4)), params, evaluate=evaluator(first), best="val")
    result = run(second, Rows(3), params, evaluate=evaluator(second), best="val")
    assert_equal(everything(second), everything(whole))
    assert result.history == expected.history
    bias = whole.blocks[0].ffn.bias_E
    assert 0 < bias.abs().max() <= 10 * 0.013 + 1e-6
    assert not torch.equal(bias, bias.bfloat16().float()), "a bias is no weight and is not rounded"
    assert whole.blocks[0].mixer_norm.running_mean.abs().max() > 0


def test_best_weights_come_with_their_buffers():
    scores, at_eval, model = iter([2.0, 1.0, 3.0]), [], ruled_model()

    def evaluate():
        at_eval.append(everything(model))
        return {"score": next(scores)}

    result = run(model, Rows(), loop_params(steps=6, eval_every=2), evaluate=evaluate, best="score")
    result.load_best(model)
    assert_equal(everything(model), at_eval[1])


def test_experts_are_balanced_by_the_training_passes_of_whole_steps_only():
    """Evaluation, telemetry, what ran before, and cutting a step up do not move the bias."""
    loads = []

    def trained(fingerprint, micro_rows=8, **kwargs):
        torch.manual_seed(0)
        config = dataclasses.replace(RULED, norm=rmsnorm.Config())
        model = Decoder(config, VOCAB)
        next_token_loss(model, make_batch(3)).sum.backward()  # counted, and forgotten when the run begins
        model.zero_grad()
        forget = model.blocks[0].ffn.load.forget

        def spy():
            loads.append(int(model.blocks[0].ffn.load.count_E.sum()))
            forget()

        model.blocks[0].ffn.load.forget = spy
        rest = adamw.Config(lr=0.0)
        params = loop_params(steps=3, optimizer=OptimizerParams(matrices=rest, rest=rest), **kwargs)
        run(model, Rows(micro_rows), params, fingerprint=fingerprint, evaluate=evaluator(model))
        return model.blocks[0].ffn.bias_E

    plain = trained("a")
    once = 8 * T * 2
    assert loads == [once, once, 0, once, 0, once]  # before and after each of three steps
    assert torch.equal(trained("b", eval_every=1, telemetry_every=1), plain)
    assert torch.equal(trained("c", micro_rows=3), plain)


def test_loads_of_experts_are_telemetry():
    run(ruled_model(), Rows(), loop_params(steps=4, telemetry_every=2))
    log = runtime.work_dir() / "logs" / "pretrain.jsonl"
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    loads = [row["expert_load_max"] for row in rows if "expert_load_max" in row]
    assert len(loads) == 2
    assert all(1 <= load <= 3 for load in loads)


# ---------------------------------------------------------------- what goes wrong


def test_nan_loss_names_the_first_bad_module_and_keeps_the_checkpoint():
    model = make_model()

    def poison(step):
        if step == 5:
            model.blocks[1].ffn.w_down.register_forward_hook(lambda m, i, out: out * float("nan"))

    with pytest.raises(
        ValueError, match=r"pretrain: loss is nan at step 6; .* output of blocks\.1\.ffn\.w_down;"
    ):
        run(model, Rows(on_step=poison), loop_params(save_every=2))
    path = checkpoint.work_folder("pretrain", "f") / "latest.pt"
    assert checkpoint.load(path, ("run",))["run"]["step"] == 4
    assert all(bool(torch.isfinite(param).all()) for param in model.parameters())


def test_infinite_gradient_is_named():
    def steep(model, batch):
        loss = next_token_loss(model, batch)
        kink = (
            (model.head.weight[0, 0] - model.head.weight[0, 0].detach()).abs().sqrt()
        )  # infinite slope at 0
        return Loss(loss.sum + kink, loss.count)

    with pytest.raises(
        ValueError, match=r"gradient norm is (nan|inf) at step 1; .* the gradient of embedding.weight"
    ):
        run(make_model(), Rows(), loop_params(), objective=steep)


def test_weights_that_exploded_are_named_and_never_saved():
    def bounded(model, batch):  # finite whatever the weights are, so that only they can be wrong
        return Loss(model.embedding.weight.clamp(-1, 1).sum() * batch.count, batch.count)

    rest = adamw.Config(lr=1e36)  # decay multiplies the weights by -1e35 at every step
    optimizer = OptimizerParams(matrices=rest, rest=rest, decay_embeddings=True)
    params = loop_params(optimizer=optimizer, schedule=cosine.Config(warmup_frac=0, min_frac=1), save_every=1)
    with pytest.raises(
        ValueError, match=r"a weight is nan at step 2; .* is the weight embedding\.weight; .* holds"
    ):
        run(make_model(), Rows(), params, objective=bounded)
    saved = checkpoint.load(checkpoint.work_folder("pretrain", "f") / "latest.pt", ("masters", "run"))
    assert saved["run"]["step"] == 1
    assert all(bool(torch.isfinite(w).all()) for w in saved["masters"].values())


def test_a_step_without_targets_is_an_error():
    class Nothing:
        def micro_batches(self, step):
            batch = make_batch(step)
            return [dataclasses.replace(batch, mask_BT=torch.zeros_like(batch.mask_BT))]

    with pytest.raises(ValueError, match="step 1 has nothing to score"):
        run(make_model(), Nothing(), loop_params())


def test_a_second_run_in_the_same_folder_refuses():
    def nested(step):
        run(make_model(), Rows(), loop_params())

    with pytest.raises(ValueError, match="another run is training here"):
        run(make_model(), Rows(on_step=nested), loop_params())


def test_damaged_checkpoint_is_one_clear_line():
    with pytest.raises(runtime.Interrupted):
        run(make_model(), Rows(on_step=stop_at(1)), loop_params())
    path = checkpoint.work_folder("pretrain", "f") / "latest.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=r"latest\.pt: damaged checkpoint .*; delete .* and run again"
    ) as error:
        run(make_model(), Rows(), loop_params())
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- history, best weights, tracking


def test_history_is_deterministic_and_holds_no_machine_facts():
    one, two = make_model(), make_model()
    params = loop_params(eval_every=4, telemetry_every=2)
    a = run(one, Rows(), params, fingerprint="a", evaluate=evaluator(one)).history
    b = run(two, Rows(), params, fingerprint="b", evaluate=evaluator(two)).history
    assert json.dumps(a) == json.dumps(b)
    assert [row["step"] for row in a] == [2, 4, 6, 8, 10]
    assert set(a[0]) == {"step", "loss", "lr_frac", "grad_norm"}
    assert set(a[1]) == {"step", "loss", "lr_frac", "grad_norm", "val"}
    assert "val" in a[-1]


@pytest.mark.parametrize(("best", "expected"), [("score", 4), ("-score", 2)])
def test_best_weights_are_those_of_the_best_evaluation(best, expected):
    scores = iter([3.0, 1.0, 2.0])  # at steps 2, 4 and 6
    model = make_model()
    at_eval = []

    def evaluate():
        at_eval.append(weights(model))
        return {"score": next(scores)}

    result = run(model, Rows(), loop_params(steps=6, eval_every=2), evaluate=evaluate, best=best)
    assert result.best_step == expected
    final = weights(model)
    result.load_best(model)
    assert_equal(weights(model), at_eval[expected // 2 - 1])
    assert not torch.equal(weights(model)["embedding.weight"], final["embedding.weight"])


def test_log_file_holds_rows_speed_telemetry_and_samples(capsys):
    model = make_model()
    run(
        model,
        Rows(),
        loop_params(steps=4, eval_every=4, telemetry_every=2),
        evaluate=evaluator(model),
        sample=lambda: ["once upon"],
    )
    log = runtime.work_dir() / "logs" / "pretrain.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    merged = {}
    for line in lines:
        merged.setdefault(line["step"], {}).update(line)
    assert merged[2]["tokens_per_s"] > 0
    assert {"act_rms/blocks.0", "act_rms/blocks.1", "grad_norm/embedding", "grad_norm/blocks.1"} <= merged[
        2
    ].keys()
    assert merged[4]["samples"] == "once upon"
    assert merged[4]["val"] > 0
    assert "once upon" in capsys.readouterr().out


def test_parts_of_the_objective_are_logged_per_count():
    def objective(model, batch):
        loss = next_token_loss(model, batch)
        return Loss(loss.sum, loss.count, {"accuracy": 0.25 * loss.count})

    history = run(make_model(), Rows(3), loop_params(steps=2), objective=objective).history
    assert history[0]["accuracy"] == pytest.approx(0.25)
