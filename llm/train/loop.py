"""loop: the one training loop of every gradient-based stage; what differs is the objective and the source.

A step asks the source for its micro-batches, divides the summed loss of all of them by one count (so that
accumulation equals a big batch), clips, steps the optimizers, and then does whatever is due: evaluate, log,
save. Everything a resumed run needs is in one state; steps are numbered, and a step depends on nothing but
the state and its number.

History rows hold `step, loss, lr_frac, grad_norm`, the parts of the objective and the last evaluation, and
are deterministic. Tokens per second are machine facts: they go to the tracker and to `runtime.record_facts`.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from llm import registry, runtime
from llm.nn.ffn import base as ffn
from llm.nn.mixers import base as mixers
from llm.nn.objective import Loss, Objective
from llm.optim._groups import OptimizerParams, build_optimizers, split
from llm.optim.base import Optimizer
from llm.params import Family
from llm.train import checkpoint, telemetry
from llm.train.precision import MasterWeights, PrecisionKind
from llm.train.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    """What every training stage chooses. Of `..._every`, 0 means never; evaluation and saving also end the run.

    grad_clip: largest global gradient norm, 0 = no clipping. telemetry_every: activation and gradient norms.
    """

    log_every: int
    eval_every: int
    save_every: int
    grad_clip: float
    precision: PrecisionKind
    optimizer: OptimizerParams
    schedule: Annotated[Any, Family("llm.optim.schedules")]
    telemetry_every: int = 0

    def __post_init__(self) -> None:
        for name in ("eval_every", "save_every", "telemetry_every", "grad_clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 0")
        if self.log_every < 1:
            raise ValueError(f"log_every ({self.log_every}) must be positive")


@dataclass(frozen=True, kw_only=True)
class LoopParams(TrainingParams):
    """TrainingParams and a number of optimizer steps."""

    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps ({self.steps}) must be positive")


class Batch(Protocol):
    """What the loop must know of a batch: what its loss is divided by, before the loss exists."""

    @property
    def count(self) -> int: ...


class Source(Protocol):
    """Hands out the micro-batches of a step; called when the model holds the weights of that step."""

    def micro_batches(self, step: int) -> Sequence[Any]: ...


@dataclass(frozen=True)
class TrainResult:
    """history: logged rows; best_step: step of the best evaluation (0: none); best_weights: its file, or None.

    Call `finish` once the outs of the stage are in place: it removes the work folder.
    """

    history: list[dict[str, Any]]
    best_step: int
    best_weights: Path | None
    work: Path

    @torch.no_grad()
    def load_best(self, model: nn.Module) -> None:
        """Put the weights of the best evaluation into `model`; without one it keeps what it has."""
        if self.best_weights is None:
            return
        saved = checkpoint.load(self.best_weights, ("step", "weights", "buffers"))
        if saved is None:
            raise ValueError(f"{self.best_weights}: no such file; delete {self.work} and run again")
        params = dict(model.named_parameters())
        for name, weight in saved["weights"].items():
            params[name].copy_(weight)
        checkpoint.set_buffers(model, saved["buffers"])

    def finish(self) -> None:
        """Forget the checkpoints of this run."""
        checkpoint.remove(self.work)


@dataclass
class _State:
    """Where a run stands. sums: loss, parts and count added up since the last row of the history."""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best_value: float = math.inf
    sums: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    """What the helpers of `train` work with; fixed for the whole run."""

    model: nn.Module
    objective: Objective
    params: LoopParams
    stage: str
    work: Path
    weights: MasterWeights
    optimizers: list[Optimizer]
    tracker: Tracker


def train(
    model: nn.Module,
    objective: Objective,
    source: Source,
    params: LoopParams,
    *,
    stage: str,
    seed: int,
    fingerprint: str,
    evaluate: Callable[[], dict[str, float]] | None = None,
    best: str | None = None,
    sample: Callable[[], list[str]] | None = None,
    unit: str = "tokens",
) -> TrainResult:
    """Train `model` in place for `params.steps` steps; resumes from the work folder of (stage, fingerprint).

    evaluate: called every `eval_every` steps and after the last; its numbers join the history.
    best: name of one of them; the weights with the lowest value are kept (`-name`: with the highest).
    sample: texts to print and log whenever there was an evaluation. unit: what a batch counts, for the speed.

    Raises:
        ValueError: loss, gradient or weights became nan or infinite (the cause is named); damaged checkpoint.
        Interrupted: SIGINT or SIGTERM arrived; the state is saved.
        OSError: a checkpoint could not be written; the one before is intact.
    """
    work = checkpoint.work_folder(stage, fingerprint)
    with contextlib.ExitStack() as stack:
        stack.enter_context(runtime.exclusive(work))
        weights = stack.enter_context(MasterWeights(model, params.precision))
        optimizers = build_optimizers(split(model), weights.masters, params.optimizer)
        schedule = registry.build(params.schedule, params.steps)
        torch.manual_seed(runtime.derive_seed(seed, stage, "train"))
        state = _resume(work, model, weights, optimizers)
        tracker = stack.enter_context(Tracker(stage, start=state.step))
        stopping = stack.enter_context(runtime.stop_signals())
        run = _Run(model, objective, params, stage, work, weights, optimizers, tracker)
        speed = _Speed(unit)

        model.train()
        todo = range(state.step, params.steps)
        for step in runtime.progress(todo, stage, len(todo)):
            with speed.measured():
                lr_frac = schedule.factor(step)
                micro_batches = [_to_device(batch, model) for batch in source.micro_batches(step)]
                grad_norm, count = _step(run, state, micro_batches, lr_frac)
            speed.add(count)
            state.step = step + 1

            last = state.step == params.steps
            metrics: dict[str, float] = {}
            if evaluate is not None and (last or _due(params.eval_every, state.step)):
                metrics = _evaluate(run, state, evaluate, best, sample)
            if last or metrics or _due(params.log_every, state.step):
                _log(run, state, {"lr_frac": lr_frac, "grad_norm": grad_norm}, metrics, speed)
            if last or stopping() or _due(params.save_every, state.step):
                _save(run, state)
            if stopping():
                raise runtime.Interrupted(f"step {state.step} is saved; run the same command to go on")
        speed.record()
    model.eval()
    return TrainResult(state.history, state.best_step, work / "best.pt" if state.best_step else None, work)


def _step(run: _Run, state: _State, micro_batches: list[Any], lr_frac: float) -> tuple[float, int]:
    """One optimizer step; returns the gradient norm before clipping and the count of the step."""
    number = state.step + 1
    count = sum(batch.count for batch in micro_batches)
    if count < 1:
        raise ValueError(
            f"{run.stage}: step {number} has nothing to score; its batches are empty or all masked"
        )
    telemetry_due = _due(run.params.telemetry_every, number)
    with telemetry.activations(run.model, watch=telemetry_due) as facts:
        losses = []
        ffn.before_step(run.model)
        for batch in micro_batches:
            loss = run.objective(run.model, batch)
            (loss.sum / count).backward()
            run.weights.collect()
            losses.append(_detached(loss))
    if telemetry_due:
        run.tracker.log(number, facts | telemetry.gradient_norms(run.weights.masters))
    total = sum(loss["loss"] for loss in losses)
    grad_norm = run.weights.clip(run.params.grad_clip)
    if not math.isfinite(total) or not math.isfinite(grad_norm):
        what = ("loss", total) if not math.isfinite(total) else ("gradient norm", grad_norm)
        _stop_on_non_finite(run, number, *what, micro_batches)
    for optimizer in run.optimizers:
        optimizer.schedule(lr_frac)
        optimizer.step()
    run.weights.publish()
    facts = ffn.after_step(run.model)
    mixers.after_step(run.model)
    if facts and telemetry_due:
        run.tracker.log(number, facts)
    for parts in (*losses, {"count": count}):
        for name, value in parts.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
    return grad_norm, count


def _detached(loss: Loss) -> dict[str, float]:
    """Sum and parts of a loss as numbers; `loss_sum`, where an objective reports it, leaves auxiliary terms out."""
    parts = {name.removesuffix("_sum"): float(value) for name, value in loss.parts.items()}
    return {"loss": float(loss.sum.detach()), **parts}


def _evaluate(
    run: _Run,
    state: _State,
    evaluate: Callable[[], dict[str, float]],
    best: str | None,
    sample: Callable[[], list[str]] | None,
) -> dict[str, float]:
    """Metrics of the model as it stands; keeps its weights if they are the best so far. Training's random
    numbers are not touched."""
    run.model.eval()
    with torch.random.fork_rng(), torch.no_grad():
        metrics = {name: float(value) for name, value in evaluate().items()}
        texts = sample() if sample is not None else []
    run.model.train()
    if texts:
        shown = "\n".join(texts)
        print(f"{run.stage}: samples at step {state.step}\n{shown}", flush=True)
        run.tracker.text(state.step, "samples", shown)
    if best is not None:
        value = -metrics[best[1:]] if best.startswith("-") else metrics[best]
        if value < state.best_value:
            state.best_step, state.best_value = state.step, value
            kept = {"weights": run.weights.state(), "buffers": checkpoint.buffers(run.model)}
            checkpoint.save(run.work / "best.pt", {"step": state.step, **kept})
    return metrics


def _log(
    run: _Run, state: _State, facts: dict[str, float], metrics: dict[str, float], speed: "_Speed"
) -> None:
    """Close a row of the history: means since the last row, facts of this step, metrics if any."""
    count = state.sums.pop("count")
    means = {name: value / count for name, value in state.sums.items()}
    state.sums = {}
    row = {"step": state.step, **means, **facts, **metrics}
    state.history.append(row)
    run.tracker.log(
        state.step, {name: value for name, value in row.items() if name != "step"} | speed.since_last()
    )
    if metrics:
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
        print(f"{run.stage}: step {state.step}/{run.params.steps}  {numbers}", flush=True)


def _save(run: _Run, state: _State) -> None:
    """Write the state; weights that are not finite never replace good ones."""
    masters = run.weights.state()
    buffers = checkpoint.buffers(run.model)
    if not all(telemetry.finite(tensor) for tensor in (*masters.values(), *buffers.values())):
        _stop_on_non_finite(run, state.step, "a weight", math.nan, [])
    checkpoint.save(
        run.work / "latest.pt",
        {
            "run": dataclasses.asdict(state),
            "masters": masters,
            "buffers": buffers,
            "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
            "random": checkpoint.random_state(),
        },
    )


def _resume(work: Path, model: nn.Module, weights: MasterWeights, optimizers: list[Optimizer]) -> _State:
    """The saved state of this run, put back into its place; a fresh one when there is none."""
    saved = checkpoint.load(work / "latest.pt", ("run", "masters", "buffers", "optimizers", "random"))
    if saved is None:
        return _State()
    weights.load(saved["masters"])
    checkpoint.set_buffers(model, saved["buffers"])
    for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    checkpoint.set_random_state(saved["random"])
    return _State(**saved["run"])


def _stop_on_non_finite(
    run: _Run, number: int, what: str, value: float, micro_batches: list[Any]
) -> NoReturn:
    """Raise the error that says what went wrong first and what to do."""
    first = telemetry.first_non_finite(
        run.model, run.weights.masters, lambda: [run.objective(run.model, batch) for batch in micro_batches]
    )
    latest = run.work / "latest.pt"
    kept = f"{latest} holds the last good state" if latest.exists() else "no state had been saved yet"
    raise ValueError(
        f"{run.stage}: {what} is {value} at step {number}; the first non-finite tensor is {first}; "
        f"lower the lr of {run.stage}.optimizer in params.yaml or raise its warm-up; {kept}"
    )


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _to_device(value: Any, model: nn.Module) -> Any:
    """A batch (a dataclass of tensors, nested or not) on the model's device; unchanged on the CPU."""
    device = next(model.parameters()).device
    if device.type == "cpu":
        return value
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            item.name: _to_device(getattr(value, item.name), model) for item in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **fields)
    return value


class _Speed:
    """Units a second of the steps this process did, evaluation and saving left out."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.seconds = self.units = 0.0
        self._shown = (0.0, 0.0)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        t0 = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - t0

    def add(self, units: int) -> None:
        self.units += units

    def since_last(self) -> dict[str, float]:
        """Speed since the last call."""
        units, seconds = self.units - self._shown[0], self.seconds - self._shown[1]
        self._shown = (self.units, self.seconds)
        return {f"{self.unit}_per_s": units / max(seconds, 1e-9)}

    def record(self) -> None:
        if self.seconds:
            per_s = self.units / self.seconds
            runtime.record_facts(**{f"{self.unit}_per_s": per_s, "train_seconds": self.seconds})
