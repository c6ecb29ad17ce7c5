"""Taking a network out of a study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...results import ExportError, Study
from ...spaces import StudySpec, TrialConfig
from ...spaces.datasets import Dataset, load_dataset
from ..checkpoint import Checkpoint
from ..compaction import compact
from ..errors import TrialError
from ..methods import Methods, fingerprint
from ..seeds import derived_seed
from ..trial import cascade_options, fixed_subset
from ..verification import verify
from . import folder
from .card import model_card, page
from .certificate import Certificate, sample_verdicts
from .deployment import deployed_cost
from .from_onnx import from_onnx
from .outputs import AGREEMENT, difference, onnx_logits, torch_logits
from .structure import described, traced
from .to_onnx import to_onnx
from .vnnlib import instances_text, property_text


def export_trial(
    study: Study,
    trial_id: str,
    out: Path,
    *,
    split: str,
    samples: int | None,
    properties: int,
    measure: bool = False,
    data_dir: str | None = None,
    allow_code: bool = False,
) -> Certificate:
    """Write a completed trial to the new folder `out`, with all that it takes to check it again.

    Args:
        split: whose samples the certificate is about, `validation` or `test`.
        samples: how many of them at most, the seeded ones that the search would score; None for all.
        properties: how many of these get a VNN-LIB property: the first that are classified correctly. None in a study
            by L2, since VNN-LIB describes no balls.
        measure: whether to measure what the network costs where it runs (`deployed_cost`), for its card.
        data_dir: where data files are looked for first.
        allow_code: whether `module:function` in the spec may run.

    Returns:
        The certificate, as it stands in the folder.

    Raises:
        ExportError: the trial is not completed or its network cannot be exported; the folder is there already. Nothing
            is written then.
        SpecError: its data is not here.
    """
    folder.check_free(out)
    trial = _completed(study, trial_id)
    spec = StudySpec.from_dict(study.spec)
    data = load_dataset(spec.data, options=spec.data_options, data_dir=data_dir, allow_code=allow_code)
    config = TrialConfig(trial_id=trial_id, seed=trial["seed"], values=json.loads(trial["config"]))
    try:
        checkpoint = Checkpoint.load(study.store.location, trial["checkpoint"])
        if checkpoint.fingerprint != fingerprint(config, spec):
            raise ExportError(
                f"the checkpoint of trial {trial_id} is of another configuration: {checkpoint.fingerprint}"
            )
        whole = _network(config, data, checkpoint, allow_code)
        compaction = compact(whole, data.shape)
        deployed = traced(compaction.network, data.shape)
        card = model_card(study, trial, data, traced(whole, data.shape), deployed, compaction)
        model = to_onnx(deployed)
        if measure:
            card["deployed"] = deployed_cost(model, deployed, traced(_dense(config, data, allow_code), data.shape))
        files = {
            folder.MODEL: model,
            folder.NETWORK: folder.to_json(described(whole)),
            folder.WEIGHTS: folder.to_tensors(checkpoint.weights),
            folder.MASK: folder.to_tensors(checkpoint.mask),
            folder.CARD: folder.to_json(card),
        }
        chosen = fixed_subset(len(data.splits()[split]), samples, split)
        certificate = _certified(files, spec, data, split, chosen, compaction.network, properties)
    except TrialError as error:
        raise ExportError(f"trial {trial_id} cannot be exported: {error}") from error
    files[folder.CERTIFICATE] = certificate.to_bytes()
    files[folder.README] = page(json.loads(files[folder.CARD]), certificate).encode()
    folder.write_folder(out, files)
    return certificate


def _completed(study: Study, trial_id: str) -> Mapping[str, Any]:
    """The row of a trial.

    Raises:
        ExportError: there is none, or its training has not come to its end.
    """
    trial = study.trial(trial_id)
    if trial is None:
        raise ExportError(f"there is no trial {trial_id!r} in {study.uri}; see them with: sparsevlr trials {study.uri}")
    row: Mapping[str, Any] = trial.to_dict()
    if row["state"] != "completed" or row["checkpoint"] is None:
        raise ExportError(
            f"trial {trial_id} is {row['state']}: only completed trials can be exported; see them with: "
            f"sparsevlr trials {study.uri} --where \"state = 'completed'\""
        )
    return row


def _network(config: TrialConfig, data: Dataset, checkpoint: Checkpoint, allow_code: bool) -> nn.Sequential:
    """The whole network as it was trained, in eval mode."""
    network = _dense(config, data, allow_code)
    try:
        network.load_state_dict(checkpoint.weights)
        checkpoint.mask.apply_(network)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"trial {config.trial_id}: its weights do not fit its architecture: {reason}") from error
    return network


def _dense(config: TrialConfig, data: Dataset, allow_code: bool) -> nn.Sequential:
    """The network before any training, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        return Methods.of(config).build_network(data.shape, data.classes, allow_code=allow_code).eval()


def _certified(
    files: dict[str, bytes],
    spec: StudySpec,
    data: Dataset,
    split: str,
    chosen: list[int],
    network: nn.Sequential,
    properties: int,
) -> Certificate:
    """Verify what is read back from `model.onnx`; add the samples and properties, and sign for all files."""
    x, y = (torch.from_numpy(values[chosen]) for values in (data.splits()[split].x, data.splits()[split].y))
    options = cascade_options(spec, spec.verification.final_stages)
    model = from_onnx(files[folder.MODEL]).network
    wanted = torch_logits(network, x, options.batch_size)
    for logits in (torch_logits(model, x, options.batch_size), onnx_logits(files[folder.MODEL], x, options.batch_size)):
        if not (difference(logits, wanted) <= AGREEMENT).all():
            raise ExportError(f"what is exported gives other outputs, by up to {difference(logits, wanted).max():.2g}")
    box: dict[str, Any] = {"epsilon": spec.epsilon, "low": float(data.low), "high": float(data.high)}
    seed = derived_seed("attack", split, len(spec.rungs) - 1)
    scale = torch.ones(data.shape)
    if spec.epsilon_scale is not None:
        scale = torch.tensor(spec.epsilon_scale, dtype=torch.float32).expand(data.shape)
    found = verify(model, x, y, **box, scale=scale, norm=spec.norm, options=options, seed=seed)
    points = [torch.from_numpy(found.counterexamples[sample]) for sample in sorted(found.counterexamples)]
    files[folder.SAMPLES] = folder.to_tensors(
        {
            "inputs": x,
            "labels": y,
            "scale": scale,
            "counterexamples": torch.stack(points) if points else x.new_zeros(0, *data.shape),
        }
    )
    asked = np.flatnonzero(found.stage != "natural")[: properties if spec.norm == "linf" else 0].tolist()
    for position in asked:
        text = property_text(x[position].numpy(), int(y[position]), data.classes, **box, scale=scale.numpy())
        files[folder.property_file(chosen[position])] = text.encode()
    if asked:
        files[folder.INSTANCES] = instances_text([chosen[position] for position in asked]).encode()
    return Certificate(
        split=split,
        **box,
        norm=spec.norm,
        cascade=options,
        seed=seed,
        samples=sample_verdicts(chosen, y.tolist(), found),
        sha256={name: folder.digest(content) for name, content in files.items()},
    )
