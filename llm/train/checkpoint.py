"""checkpoint: the resumable state of a training run, in a work folder outside every DVC out.

DVC deletes a stage's outs before it starts, so a run that was interrupted finds nothing there. Its state
lives in `<work dir>/<stage>/<fingerprint>/` instead. The fingerprint covers params, inputs and code:
a run with other settings never meets a foreign checkpoint. The folder is removed by the stage, once the
outs are in place (docs/train/checkpoint.md).

    latest.pt   masters, buffers, optimizer states, random state, step, history
    best.pt     weights and buffers of the best evaluation so far, and its step
    lock        held while a run trains here
"""

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm import runtime


def work_folder(stage: str, fingerprint: str) -> Path:
    """Where the run of `stage` with these settings keeps its state."""
    return runtime.work_dir() / stage / fingerprint


def fingerprint(params: Any, *inputs: Path) -> str:
    """16 hexadecimal digits over plain params (`llm.params.to_dict`), input files, the sources of every
    module of `llm` imported so far, and the version of torch."""
    modules = sorted(
        (name, module.__file__) for name, module in sys.modules.items() if name.split(".")[0] == "llm"
    )
    sources = [Path(file) for _, file in modules if file]
    text = json.dumps([params, torch.__version__, runtime.hash_files(*inputs, *sources)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state atomically: after a crash or on a full disk the previous file is still there.

    Raises:
        OSError: the file could not be written.
    """
    try:
        with runtime.atomic_file(path, "wb") as handle:
            torch.save(state, handle)
    except (OSError, RuntimeError) as error:  # torch's writer hides a failed write behind a RuntimeError
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = " ".join(str(cause).split())[:200]
        kept = "the previous checkpoint is intact" if path.exists() else "there is no earlier checkpoint"
        raise OSError(
            f"{path}: could not be written ({reason}); free disk space and run again; {kept}"
        ) from None


def load(path: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """Read a state that has `keys`; None when there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load checks no checksum: a flipped bit would pass
            if wrong := archive.testzip():
                raise ValueError(f"checksum of {wrong}")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if missing := set(keys) - set(state):
            raise ValueError(f"no {', '.join(sorted(missing))} in it")
    except Exception as error:  # whatever unpickling damaged bytes may raise
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{path}: damaged checkpoint ({reason}); delete {path.parent} and run again"
        ) from None
    return state


def random_state() -> dict[str, Any]:
    """States of torch's generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Inverse of `random_state`; a run that moved to a machine with other devices keeps the CPU's only."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """What a model keeps besides its parameters, by name: a bias that follows a rule, running statistics, random
    features. Buffers declared not persistent are left out."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in parameters}


@torch.no_grad()
def set_buffers(model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Inverse of `buffers`, bit for bit."""
    for name, tensor in buffers(model).items():
        tensor.copy_(saved[name])


def remove(folder: Path) -> None:
    """Forget a finished run."""
    shutil.rmtree(folder, ignore_errors=True)
