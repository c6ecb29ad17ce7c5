"""The model card: where a network comes from and what was measured of it, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...results import Study
from ...results.intervals import wilson_interval
from ...results.manifest import installed_versions
from ...spaces import StudySpec
from ...spaces.datasets import Dataset
from ..accounting import network_cost
from ..bounds import Graph
from ..compaction import Compaction
from .certificate import Certificate

ACCURACIES = ("natural_accuracy", "adversarial_accuracy", "verified_accuracy")
_LINEAGE = ("trial_id", "sparsity", "verified_accuracy", "samples")


def model_card(
    study: Study, trial: Mapping[str, Any], data: Dataset, whole: Graph, deployed: Graph, compaction: Compaction
) -> dict[str, Any]:
    """Everything about an exported trial but its certificate, as plain JSON values.

    Args:
        trial: its row among the study's trials.
        whole: the network as it was trained.
        deployed: the compacted one.
    """
    spec = StudySpec.from_dict(study.spec)
    trial_id, rung = trial["trial_id"], trial["rung"]
    reports = [row for row in study.reports().to_pylist() if (row["trial_id"], row["rung"]) == (trial_id, rung)]
    measured = {row["split"]: accuracies(row) for row in reports if row["samples"]}
    before, after = network_cost(whole), network_cost(deployed)
    return {
        "format": "sparsevlr-export",
        "version": 1,
        "study": study.name,
        "trial": trial_id,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {
            "name": data.name,
            "description": data.description,
            "options": spec.to_dict()["data_options"],
            "shape": list(data.shape),
            "classes": data.classes,
            "labels": list(data.labels),
            "low": float(data.low),
            "high": float(data.high),
            "splits": {name: len(split) for name, split in data.splits().items()},
        },
        "epsilon": spec.epsilon,
        "norm": spec.norm,
        "training": spec.constants(),
        "configuration": json.loads(trial["config"]),
        "seed": trial["seed"],
        "fingerprint": trial["fingerprint"],
        "lineage": [{name: row[name] for name in _LINEAGE} for row in study.lineage(trial_id).to_pylist()],
        "accuracy": measured,
        "sparsity": {
            "sparsity": before.sparsity,
            "target_sparsity": trial["target_sparsity"],
            "nonzero_weights": before.nonzero_weights,
            "total_weights": before.total_weights,
            "other_parameters": before.other_parameters,
            "layer_densities": dict(before.layer_densities),
        },
        "compacted": {
            "layers": {layer.name: [layer.before, layer.after] for layer in compaction.layers},
            "nonzero_weights": after.nonzero_weights,
            "total_weights": after.total_weights,
            "macs": after.macs,
            "size_bytes": after.size_bytes,
            "dense_bytes": after.dense_bytes,
            "bitmask_bytes": after.bitmask_bytes,
            "csr_bytes": after.csr_bytes,
        },
        "versions": {"export": installed_versions(), "study": study.store.manifest.get("versions", {})},
    }


def accuracies(row: Mapping[str, Any]) -> dict[str, Any]:
    """The accuracies of a report, each with its 95 % Wilson interval; null where one was not measured."""
    found: dict[str, Any] = {"samples": row["samples"], "epsilon": row["epsilon"]}
    for name in ACCURACIES:
        share = row[name]
        if share is None:
            found[name] = None
        else:
            low, high = wilson_interval(round(share * row["samples"]), row["samples"])
            found[name] = {"value": share, "low": low, "high": high}
    return found


def page(card: Mapping[str, Any], certificate: Certificate) -> str:
    """The model card for people, in Markdown."""
    data, sparsity, compacted = card["data"], card["sparsity"], card["compacted"]
    verdicts = [sample.verdict for sample in certificate.samples]
    inputs = "x".join(map(str, data["shape"]))
    lines = [
        f"# Trial {card['trial']} of study {card['study']}",
        "",
        f"A sparse classifier with formally verified local robustness, exported by sparsevlr on {card['date']}.",
        "",
        f"- data: {data['name']}, {_spelled(data['options'])}; {_listed(data['splits'])} samples",
        f"- input: float32 {inputs}, values in [{data['low']:g}, {data['high']:g}]; {data['classes']} classes",
        f"- epsilon: {card['epsilon']:g} by {card['norm'].capitalize()} (in units of the input{_scaled(card)}; inputs "
        "stay in that range)",
        f"- sparsity: {sparsity['sparsity']:.2%}: {sparsity['nonzero_weights']} of {sparsity['total_weights']} weights "
        f"of convolution and linear layers are not zero; {sparsity['other_parameters']} other parameters",
        f"- compacted (`model.onnx`): {compacted['total_weights']} weights, {compacted['macs']} multiply-accumulates, "
        f"{compacted['size_bytes']} bytes (dense {compacted['dense_bytes']})",
        f"- lineage: {' from '.join(row['trial_id'] for row in card['lineage'])}; seed {card['seed']}",
        "",
        "## Files",
        "",
        "- `model.onnx`: the compacted network, `input` to `logits`, with any number of inputs at once",
        "- `weights.safetensors`, `mask.safetensors`, `network.json`: the whole network as it was trained",
        "- `certificate.json`, `samples.safetensors`: verdicts, and the samples they are about",
        *_properties(card),
        "- `card.json`: this page for programs",
        "",
        "## Accuracy",
        "",
        "| split | samples | natural | adversarial | verified |",
        "|---|---|---|---|---|",
        *(
            f"| {split} | {row['samples']} | {' | '.join(_share(row[name]) for name in ACCURACIES)} |"
            for split, row in card["accuracy"].items()
        ),
        "",
        "With 95 % Wilson intervals. The search decided on validation, so its figures are optimistic.",
        "",
        "## Certificate",
        "",
        f"Of {len(verdicts)} samples of the {certificate.split} split {verdicts.count('verified')} are verified, "
        f"{verdicts.count('falsified')} falsified and {verdicts.count('unknown')} unknown, by the stages "
        f"{', '.join(certificate.cascade.stages)}. `sparsevlr verify` on this folder finds them again.",
        "",
        *_deployed(card),
        "## Configuration",
        "",
        "```json",
        json.dumps({"training": card["training"], "configuration": card["configuration"]}, indent=1),
        "```",
        "",
        "## Versions",
        "",
        f"Exported with {_listed(card['versions']['export'], ' ')}; searched with "
        f"{_listed(card['versions']['study'], ' ')}.",
        "",
    ]
    return "\n".join(lines)


def _deployed(card: Mapping[str, Any]) -> list[str]:
    if "deployed" not in card:
        return []
    cost = card["deployed"]
    exported, dense = cost["exported"], cost["dense"]
    rows = [
        ("bytes on disk", f"{exported['file_bytes']:,}", f"{dense['file_bytes']:,}"),
        ("multiply-accumulates", f"{exported['macs']:,}", f"{dense['macs']:,}"),
        *(
            (f"milliseconds, batch of {batch}", f"{1e3 * seconds:.3f}", f"{1e3 * dense['latency_seconds'][batch]:.3f}")
            for batch, seconds in exported["latency_seconds"].items()
        ),
        ("peak memory, MB", _megabytes(exported["peak_memory_bytes"]), _megabytes(dense["peak_memory_bytes"])),
    ]
    return [
        "## Deployed cost",
        "",
        f"{cost['runtime']}; beside the dense network of the same architecture. ONNX Runtime multiplies zeros too: "
        "what is saved is what compaction has removed.",
        "",
        "| | exported | dense |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _properties(card: Mapping[str, Any]) -> list[str]:
    if card["norm"] != "linf":
        return []
    return ["- `vnnlib/`, `instances.csv`: properties of some of the samples, for other verifiers"]


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f}"


def _scaled(card: Mapping[str, Any]) -> str:
    return ", times `epsilon_scale` of each feature" if "epsilon_scale" in card["training"] else ""


def _share(accuracy: Mapping[str, float] | None) -> str:
    if accuracy is None:
        return "-"
    return f"{accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%})"


def _spelled(options: Mapping[str, Any]) -> str:
    return json.dumps(options) if options else "no options"


def _listed(values: Mapping[str, Any], between: str = " ") -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in values.items())
