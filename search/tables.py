"""Tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..results.configs import configuration

if TYPE_CHECKING:
    from ..trainables.export import Check

SHORT = {
    "target_sparsity": "target",
    "verified_accuracy": "verified",
    "adversarial_accuracy": "adversarial",
    "natural_accuracy": "natural",
    "verified_ramp": "rung score",
    "nonzero_weights": "weights",
    "macs": "MACs",
    "size_bytes": "bytes",
    "unstable_relu_fraction": "unstable",
}
LAYERS = {
    "density": "density",
    "live_units": "live units",
    "gradient_norm": "gradient",
    "pruned_gradient_norm": "of pruned",
    "unstable_relu_fraction": "unstable",
    "dead_relu_fraction": "dead",
    "bound_tightness": "tightness",
}
OVERLAPS = {
    "weights": "weights",
    "kept_a": "kept by a",
    "kept_b": "by b",
    "shared": "by both",
    "by_chance": "by chance",
    "jaccard": "Jaccard",
    "overlap": "overlap",
    "agreement": "agreement",
    "deviations": "deviations",
}
SHARES = {name for name in SHORT if name.endswith(("accuracy", "fraction", "auc"))}
SHARES |= {"density", "live_units", "dead_relu_fraction", "bound_tightness", "jaccard", "overlap", "agreement"}
SPARSITIES = {"sparsity", "target_sparsity"}
ALWAYS = ("sparsity", "verified_accuracy", "adversarial_accuracy", "natural_accuracy", "nonzero_weights")
NAMED = 20
"""How many of what differs a table names."""
METHODS = ("architecture", "score", "distribution", "pattern", "schedule")


def front_table(
    front: pa.Table, test: pa.Table | None, objectives: Sequence[str], width: int, by_norm: str = ""
) -> Table:
    """A Pareto front, verified accuracy with its 95 % interval, and beside it the same trials' test figures.

    The methods of each trial are shown where `width` (of the terminal, in characters) has room for them; `by_norm`
    stands after epsilon.
    """
    rows = front.to_pylist()
    tested = {row["trial_id"]: row for row in test.to_pylist()} if test is not None else {}
    table = _titled(_front_title(rows, by_norm))
    table.add_column("trial", no_wrap=True)
    columns = [*ALWAYS, *(name for name in objectives if name not in ALWAYS)]
    for name in columns:
        heading = "verified (95 %)" if name == "verified_accuracy" else SHORT.get(name, name)
        table.add_column(heading, justify="right", no_wrap=True)
    if tested:
        table.add_column("on test (95 %)", justify="right", no_wrap=True)
    if width >= 110:
        table.add_column("methods")
    for row in rows:
        cells = [row["trial_id"]]
        cells += [with_interval(row) if name == "verified_accuracy" else shown(name, row[name]) for name in columns]
        cells += [with_interval(tested[row["trial_id"]])] if tested else []
        cells += [methods(row["config"])] if width >= 110 else []
        table.add_row(*cells)
    return table


def trials_table(trials: pa.Table, width: int) -> Table:
    """Every trial with its state; what went wrong where something did."""
    table = _titled(f"{len(trials)} trials")
    for name in ("trial", "state"):
        table.add_column(name, no_wrap=True)
    columns = ("epoch", "target_sparsity", "sparsity", "verified_ramp", "verified_accuracy", "natural_accuracy")
    for name in columns:
        table.add_column(SHORT.get(name, name), justify="right", no_wrap=True)
    table.add_column("methods, or what went wrong" if width >= 110 else "error")
    for row in trials.to_pylist():
        note = row["error"] or (methods(row["config"]) if width >= 110 else "")
        table.add_row(row["trial_id"], row["state"], *(shown(name, row[name]) for name in columns), note)
    return table


def layers_table(layers: pa.Table) -> Table:
    """What reports measured of each layer."""
    trials = len(layers["trial_id"].unique())
    table = _titled(f"{len(layers)} measurements of layers, {trials} trial{'' if trials == 1 else 's'}")
    for name in ("trial", "epoch", "layer"):
        table.add_column(name, no_wrap=True, justify="right" if name == "epoch" else "left")
    for heading in LAYERS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in layers.to_pylist():
        cells = (shown(name, row[name]) for name in LAYERS)
        table.add_row(row["trial_id"], str(row["epoch"]), row["layer"], *cells)
    return table


def overlap_table(overlaps: pa.Table) -> Table:
    """What pairs of masks share."""
    pairs = sum(layer is None for layer in overlaps["layer"].to_pylist())
    table = _titled(f"masks of {pairs} pair{'' if pairs == 1 else 's'} of completed trials")
    for name in ("trials", "common", "layer"):
        table.add_column(name, no_wrap=True)
    for heading in OVERLAPS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in overlaps.to_pylist():
        cells = (shown(name, row[name]) for name in OVERLAPS)
        pair, layer = f"{row['trial_a']}, {row['trial_b']}", "all" if row["layer"] is None else row["layer"]
        table.add_row(pair, row["common"] or "-", layer, *cells)
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """What was checked of an export, and what does not agree."""
    table = _titled("everything agrees" if all(check.holds for check in checks) else "NOT everything agrees")
    table.add_column("checked", no_wrap=True)
    for heading in ("number", "agree"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what was seen")
    for check in checks:
        seen = [check.detail] if check.detail else []
        seen += check.differing[:NAMED]
        if len(check.differing) > NAMED:
            seen.append(f"and {len(check.differing) - NAMED} more (all with --json)")
        table.add_row(check.what, str(check.checked), str(check.agree), "\n".join(seen))
    return table


def _titled(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)


def confirmations_table(confirmations: pa.Table) -> Table:
    """What trials reached again with fresh seeds, beside what the search saw."""
    table = _titled("verified accuracy: as searched, and again with fresh seeds (mean and standard deviation)")
    table.add_column("trial", no_wrap=True)
    for heading in ("sparsity", "seeds", "searched", "again", "optimism", "on test", "again on test"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in confirmations.to_pylist():
        seeds = f"{row['seeds']}, {row['failed']} failed" if row["failed"] else str(row["seeds"])
        table.add_row(
            row["trial_id"],
            shown("sparsity", row["sparsity"]),
            seeds,
            shown("verified_accuracy", row["validation_verified_accuracy"]),
            _with_spread(row, "validation_verified_accuracy"),
            _points(row["optimism"]),
            shown("verified_accuracy", row["test_verified_accuracy"]),
            _with_spread(row, "test_verified_accuracy"),
        )
    return table


def confirmation_notes(confirmations: pa.Table) -> list[str]:
    """In words, how optimistic the searched figures were."""
    gaps = [value for value in confirmations["optimism"].to_pylist() if value is not None]
    if not gaps:
        return ["nothing could be trained again, so there is nothing to compare with"]
    mean, trials = sum(gaps) / len(gaps), f"{len(gaps)} trial{'' if len(gaps) == 1 else 's'}"
    notes = [f"searched figures exceed those of fresh seeds by {_points(mean)} points, mean over {trials} (validation)"]
    if failed := sum(confirmations["failed"].to_pylist()):
        notes.append(f"{failed} failed seeds are left out of it; the same command tries them again")
    return notes


def _with_spread(row: Mapping[str, Any], name: str) -> str:
    mean, spread = row[f"{name}_mean"], row[f"{name}_sd"]
    return "-" if mean is None else f"{mean:.1%}" + (f" ± {100 * spread:.1f}" if spread is not None else "")


def _points(difference: float | None) -> str:
    return "-" if difference is None else f"{100 * difference:+.1f}"


def plain_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of text; the columns are all keys in the order in which they appear."""
    table = Table(box=SIMPLE_HEAD)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name, no_wrap=name in ("name", "what"))
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in names))
    return table


def shown(name: str, value: Any) -> str:
    """One figure: shares in percent, sparsity with the decimals that tell 99 % from 99.9 %."""
    if value is None:
        return "-"
    if name in SPARSITIES:
        return f"{value:.2%}"
    if name in SHARES:
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def with_interval(row: Mapping[str, Any]) -> str:
    """Verified accuracy and its 95 % interval, as `87.5% (83.6 - 90.5)`."""
    if None in (row["verified_accuracy"], row["verified_low"], row["verified_high"]):
        return "-"
    return f"{row['verified_accuracy']:.1%} ({100 * row['verified_low']:.1f} - {100 * row['verified_high']:.1f})"


def methods(config: str | None) -> str:
    """The methods of a configuration in a few words; no pattern is not worth one."""
    values = configuration(config)
    return ", ".join(str(values[name]) for name in METHODS if values.get(name, "unstructured") != "unstructured")


def _front_title(rows: Sequence[Mapping[str, Any]], by_norm: str) -> str:
    title = f"Pareto front: {len(rows)} trial{'' if len(rows) == 1 else 's'}"
    if not rows:
        return f"{title} (no completed trial matches)"
    first = rows[0]
    samples = f", {first['samples']} samples" if first["samples"] else ""
    epsilon = f", epsilon {first['epsilon']:g}{by_norm}" if first["epsilon"] else ""
    return f"{title}, {first['split']} split{samples}{epsilon}"
