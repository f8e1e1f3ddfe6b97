"""dedup_plots: the chance that a pair of documents is found over its similarity, as a table and a picture.

Equal bytes from equal parameters: PNG files hold no date and no version, fonts are those of matplotlib.
"""

from pathlib import Path

import numpy as np

from llm import registry
from llm.data.dedup.base import Dedup
from llm.data.deduplicate import DedupParams
from llm.runtime import output_dir, write_csv

_DPI = 110
_STEPS = 100


def draw_curves(folder: Path, params: DedupParams) -> None:
    """Write scurve.csv and scurve.png: one line for each slot that leaves something to chance."""
    similarity = np.linspace(0.0, 1.0, _STEPS + 1)
    rows = [
        (slot, s, p)
        for slot, method in params.methods().items()
        for s, p in zip(similarity.tolist(), method.curve(similarity).tolist(), strict=False)
    ]
    with output_dir(folder) as plots:
        write_csv(plots / "scurve.csv", ("slot", "similarity", "found"), rows)
        _picture(plots / "scurve.png", params.methods(), params)


def _picture(path: Path, methods: dict[str, Dedup], params: DedupParams) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(visible=True, alpha=0.3)
    axes.set(
        xlabel="similarity of two documents", ylabel="chance to be found", xlim=(0, 1), ylim=(-0.02, 1.02)
    )
    axes.set_title("What the search for near copies finds")
    similarity = np.linspace(0.0, 1.0, _STEPS + 1)
    for slot, method in methods.items():
        config = getattr(params, slot)
        chance = method.curve(similarity)
        if len(chance):
            axes.plot(similarity, chance, label=f"{slot}: {registry.kind_of(config)}")
        if threshold := getattr(config, "threshold", None):
            axes.axvline(threshold, color="grey", ls="--", lw=1, label=f"{slot}: threshold {threshold:g}")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, loc="upper left")
    else:
        axes.text(0.5, 0.5, "no slot leaves anything to chance", ha="center", transform=axes.transAxes)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
