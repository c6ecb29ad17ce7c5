"""A picture of the front: what verified accuracy costs in sparsity, with the uncertainty that the sample leaves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from .errors import QueryError, StorageError
from .intervals import wilson_interval
from .location import reason_of
from .record import DIRECTIONS

FORMATS = ("png", "svg", "pdf")

_FRONT, _DOMINATED = "#0b5fa5", "#8a8f98"
_SPARSITY_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)
# Sparser than this is drawn here: a network without weights has no place on a logarithmic density axis.
_MIN_DENSITY = 1e-4
_SHARES = {
    "sparsity",
    "natural_accuracy",
    "adversarial_accuracy",
    "verified_accuracy",
    "verified_low",
    "verified_auc",
    "unstable_relu_fraction",
}
_LABELS = {
    "sparsity": "sparsity (share of all weights removed, %)",
    "natural_accuracy": "natural accuracy (%)",
    "adversarial_accuracy": "adversarial accuracy (%)",
    "verified_accuracy": "verified accuracy (%)",
    "verified_low": "verified accuracy, lower end of the 95 % interval (%)",
    "verified_auc": "verified accuracy, mean over the epsilon grid (%)",
    "nonzero_weights": "nonzero weights",
    "macs": "multiply-accumulate operations per input",
    "size_bytes": "size (bytes)",
    "unstable_relu_fraction": "unstable ReLUs (%)",
    "train_seconds": "training time (s)",
    "verify_seconds": "verification time (s)",
}
_MEASURED_ACCURACIES = ("natural_accuracy", "adversarial_accuracy", "verified_accuracy")


def front_figure(
    trials: pa.Table,
    front: pa.Table,
    objectives: Sequence[str],
    title: str = "",
    split: str = "validation",
    by_norm: str = "",
) -> Figure:
    """A figure of ``front`` over ``trials`` (tables with record columns), not bound to any window.

    Two objectives are the axes, sparsity across when it is one of them. Of three or more the first two are shown, and
    no line, since the front projected is no staircase; a single one is drawn against sparsity. ``by_norm`` stands after
    epsilon. Raises QueryError for a column that is no objective.
    """
    for name in objectives:
        if name not in DIRECTIONS:
            raise QueryError(f"{name!r} is no objective; choose from {', '.join(DIRECTIONS)}")
    across, up = _axes_of(objectives)
    figure = Figure(figsize=(8.0, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    others = trials.filter(pc.invert(pc.is_in(trials["trial_id"], value_set=front["trial_id"].combine_chunks())))
    states = others["state"]
    _scatter(axes, others.filter(pc.equal(states, "completed")), across, up, "completed, dominated", 0.85, 26)
    _scatter(axes, others.filter(pc.equal(states, "stopped")), across, up, "stopped early", 0.45, 14)
    unfinished = pc.is_in(states, value_set=pa.array(["running", "paused"]))
    _scatter(axes, others.filter(unfinished), across, up, "running or paused", 0.35, 14, marker="+")
    _front(axes, front, across, up)
    _decorate(axes, across, up, _across(pa.concat_tables([trials, front]), across))
    # On test the validation front need not be a front, so that a staircase would claim too much.
    if len(objectives) == 2 and split == "validation":
        _staircase(axes, front, across, up)
    subtitle = _subtitle(front, objectives, split, by_norm)
    heading = f"{title}: Pareto front" if title else "Pareto front"
    axes.set_title(heading, loc="left", fontsize=13, pad=22 + 12 * subtitle.count("\n"))
    # A long subtitle must not make the layout shrink the axes.
    axes.text(0, 1.025, subtitle, transform=axes.transAxes, fontsize=9, color="#50555c").set_in_layout(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="best", fontsize=9, frameon=True, framealpha=0.9, edgecolor="none")
    else:
        axes.text(0.5, 0.5, "no completed trial yet", transform=axes.transAxes, ha="center", color=_DOMINATED)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes the figure in the format that the file's ending names; returns the path. Raises QueryError for other
    endings, StorageError when it cannot be written."""
    target = Path(path)
    ending = target.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise QueryError(f"a plot's file name ends in {', '.join('.' + name for name in FORMATS)}; got {target.name!r}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, format=ending)
    except OSError as error:
        raise StorageError(f"cannot write the plot {target}: {reason_of(error)}; choose another place") from error
    return target


def _axes_of(objectives: Sequence[str]) -> tuple[str, str]:
    if len(objectives) == 1:
        return ("sparsity", objectives[0]) if objectives[0] != "sparsity" else ("sparsity", "verified_accuracy")
    first, second = objectives[:2]
    return (second, first) if second == "sparsity" else (first, second)


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = pc.fill_null(table[name].cast(pa.float64()), np.nan).to_numpy()
    return values * 100 if name in _SHARES else values


def _density_scale(sparsity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Powers of ten by which the density fell: 0 at 0 %, 1 at 90 %, 2 at 99 %."""
    return -np.log10(np.maximum(1 - sparsity / 100, _MIN_DENSITY))


def _across(table: pa.Table, name: str) -> NDArray[np.float64]:
    values = _numbers(table, name)
    return _density_scale(values) if name == "sparsity" else values


def _scatter(
    axes: Axes, table: pa.Table, across: str, up: str, label: str, alpha: float, size: float, marker: str = "o"
) -> None:
    x, y = _across(table, across), _numbers(table, up)
    shown = np.isfinite(x) & np.isfinite(y)
    if shown.any():
        width = {"linewidths": 1.0} if marker == "+" else {"linewidths": 0}
        axes.scatter(
            x[shown], y[shown], s=size, c=_DOMINATED, alpha=alpha, marker=marker, label=label, zorder=2, **width
        )


def _front(axes: Axes, front: pa.Table, across: str, up: str) -> None:
    x, y = _across(front, across), _numbers(front, up)
    shown = np.isfinite(x) & np.isfinite(y)
    if not shown.any():
        return
    order = np.flatnonzero(shown)[np.lexsort((y[shown], x[shown]))]
    x, y = x[order], y[order]
    low, high = _interval(front.take(pa.array(order)), up)
    label = "Pareto front"
    if low is not None and high is not None:
        bars = np.maximum(np.vstack([y - low, high - y]), 0)
        axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=_FRONT, elinewidth=1.1, capsize=3, alpha=0.75, zorder=3)
        label += ", 95 % interval"
    axes.scatter(x, y, s=42, c=_FRONT, edgecolors="white", linewidths=0.8, label=label, zorder=4)


def _staircase(axes: Axes, front: pa.Table, across: str, up: str) -> None:
    """What is attained: at each x the best y of any trial that is at least as good there."""
    x, y = _across(front, across), _numbers(front, up)
    shown = np.isfinite(x) & np.isfinite(y)
    if not shown.any():
        return
    rising = DIRECTIONS[across] == "max"
    order = np.lexsort((y[shown], x[shown]))
    x, y = x[shown][order], y[shown][order]
    left, right = axes.get_xlim()
    x, y = (np.r_[left, x], np.r_[y[0], y]) if rising else (np.r_[x, right], np.r_[y, y[-1]])
    style = "steps-pre" if rising else "steps-post"
    axes.plot(x, y, drawstyle=style, color=_FRONT, linewidth=1.4, alpha=0.55, zorder=2.5)
    axes.set_xlim(left, right)


def _interval(front: pa.Table, name: str) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Ends of the 95 % interval in percent, NaN where the sample count is missing; None for measures without one."""
    if name not in _MEASURED_ACCURACIES:
        return None, None
    shares, samples = front[name].to_pylist(), front["samples"].to_pylist()
    ends = [
        wilson_interval(share * count, count) if share is not None and count else (np.nan, np.nan)
        for share, count in zip(shares, samples, strict=True)
    ]
    low, high = np.array(ends).T * 100
    return low, high


def _decorate(axes: Axes, across: str, up: str, x: NDArray[np.float64]) -> None:
    for name, axis in ((across, axes.xaxis), (up, axes.yaxis)):
        arrow = "more" if DIRECTIONS[name] == "max" else "less"
        axis.set_label_text(f"{_LABELS[name]}, {arrow} is better")
    axes.grid(color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if up in _SHARES:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if across == "sparsity":
        _sparsity_axis(axes, x)
    elif across in _SHARES:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif np.isfinite(x).any() and np.nanmin(x) > 0 and np.nanmax(x) > 30 * np.nanmin(x):
        axes.set_xscale("log")


def _sparsity_axis(axes: Axes, x: NDArray[np.float64]) -> None:
    finite = x[np.isfinite(x)]
    end = float(finite.max()) if finite.size else 2.0
    positions = _density_scale(np.array(_SPARSITY_TICKS) * 100)
    last = int(np.searchsorted(positions, end - 1e-9)) + 1
    axes.set_xlim(-0.06, max(end, 1.0) + 0.12)
    axes.xaxis.set_major_locator(FixedLocator(positions[: max(last, 4)].tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(positions[: max(last, 4)], [f"{100 * value:g}" for value in _SPARSITY_TICKS[: max(last, 4)]])


def _subtitle(front: pa.Table, objectives: Sequence[str], split: str, by_norm: str) -> str:
    parts = []
    for column, before, after in (("epsilon", "epsilon ", by_norm), ("samples", "", f" {split} samples")):
        values = sorted(set(front[column].drop_null().to_pylist()))
        if values:
            text = f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
            parts.append(f"{before}{text}{after}")
    line = "   ·   ".join(parts)
    if len(objectives) > 2:
        line += f"\nfront over {', '.join(objectives)}; two of them shown"
    return line
