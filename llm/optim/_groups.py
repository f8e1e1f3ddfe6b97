"""groups: which optimizer steps which parameter; every trainable one exactly once.

matrices   2-D weights inside `blocks`, and 3-D ones, stacks of matrices (experts): the hidden layers
tables     embedding tables (and a head tied to one); part of `rest` unless given an optimizer of their own
rest       head, gains, biases and whatever else is trainable
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from torch import nn

from llm import registry
from llm.optim.base import Optimizer
from llm.params import Family


@dataclass(frozen=True, kw_only=True)
class OptimizerParams:
    """matrices: for the matrices of the blocks, stacked or not; rest: for all others; tables: for embedding
    tables, where a row moves only when its token comes up and so bears a larger rate (null: as the rest).
    decay_embeddings: also decay tables."""

    matrices: Annotated[Any, Family("llm.optim")]
    rest: Annotated[Any, Family("llm.optim")]
    tables: Annotated[Any, Family("llm.optim")] | None = None
    decay_embeddings: bool = False


@dataclass(frozen=True)
class Groups:
    """Names of the trainable parameters; a shared (tied) one under its first name. `tables` is part of `rest`."""

    matrices: tuple[str, ...]
    rest: tuple[str, ...]
    tables: tuple[str, ...]


def split(model: nn.Module) -> Groups:
    """Divide the trainable parameters of `model` by name, shape and the module that owns them."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trainable = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    hidden = [
        name
        for name, param in trainable
        if "blocks" in name.split(".")
        and param.ndim in (2, 3)
        and id(param) not in tables
        and not getattr(param, "elementwise", False)
    ]
    return Groups(
        matrices=tuple(hidden),
        rest=tuple(name for name, _ in trainable if name not in set(hidden)),
        tables=tuple(name for name, param in trainable if id(param) in tables),
    )


def build_optimizers(
    groups: Groups, params: Mapping[str, nn.Parameter], config: OptimizerParams
) -> list[Optimizer]:
    """One optimizer for each non-empty group. params: the numbers to step, by name (masters or the weights)."""
    undecayed = () if config.decay_embeddings else [params[name] for name in groups.tables]
    apart = groups.tables if config.tables is not None else ()
    rest = tuple(name for name in groups.rest if name not in apart)
    optimizers = []
    for variant, names in ((config.matrices, groups.matrices), (config.tables, apart), (config.rest, rest)):
        if names:
            optimizers.append(registry.build(variant, [params[name] for name in names], undecayed=undecayed))
    if not optimizers:
        raise ValueError("optimizer: the model has no trainable parameter; unfreeze some before training")
    return optimizers
