"""Checking an export again, from its files alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from ...results import ExportError
from ...results.study import by_norm
from ..bounds import Graph
from ..compaction import compact
from ..mask import Mask, prunable_weights
from ..verification import SoundnessError, verify
from ..verification.branching import TIME_OUT
from . import folder
from .certificate import Certificate, SampleVerdict, sample_verdicts
from .from_onnx import from_onnx
from .outputs import AGREEMENT, difference, onnx_logits, torch_logits
from .structure import built, traced, values_of
from .vnnlib import instances_text, property_text

UNKNOWN = "unknown"
SAME_MARGIN = 1e-3
"""Margins that the same stage finds are the same if they differ by no more than this, relative where above 1."""
BEYOND = 1e-9
"""How far, absolute and relative to its radius, a counterexample may lie outside its box by rounding."""
VALUES_AT_ONCE = 1 << 28
"""Of all layers over a batch: what is bounded at once shall fit into the memory of most machines."""


@final
@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        what: the check; `verdicts: STAGE` are those that STAGE had decided.
        checked, agree: how many files, tensors or samples, and how many of them are as the export says.
        detail: what was seen.
        differing: those that do not agree, with the reason.
    """

    what: str
    checked: int
    agree: int
    detail: str = ""
    differing: tuple[str, ...] = ()

    @classmethod
    def of(cls, what: str, checked: int, differing: Sequence[str], detail: str = "") -> Check:
        """A check that all but the `differing` ones pass."""
        return cls(what, checked, checked - len(differing), detail, tuple(differing))

    @property
    def holds(self) -> bool:
        """Whether all agree."""
        return self.agree == self.checked


def recheck(path: Path) -> list[Check]:
    """Check the export in the folder `path`: its digests, that its three forms of the network give the same outputs,
    and every verdict, by the same cascade again. Neither the study nor its data is needed, and nothing is executed.

    Raises:
        ExportError: a file is missing, unreadable or holds what an export does not; the message is one line.
    """
    certificate = Certificate.from_bytes(folder.read_file(path, folder.CERTIFICATE))
    files = {name: folder.read_file(path, name) for name in certificate.sha256}
    with _naming(folder.MODEL):
        model = from_onnx(files[folder.MODEL])
    shape = model.graph.nodes[0].shape
    x, y, scale, points = _samples(files[folder.SAMPLES], certificate, model.graph)
    whole, pruned = _whole(files, shape)
    values = max(values_of(model.graph), values_of(traced(whole, shape)))
    starts = certificate.cascade.pgd_restarts * math.prod(shape)
    if starts > VALUES_AT_ONCE:
        raise ExportError(f"{folder.CERTIFICATE}: cascade.pgd_restarts is too large for inputs of shape {tuple(shape)}")
    batch = max(1, min(certificate.cascade.batch_size, VALUES_AT_ONCE // max(values, starts)))
    wanted = torch_logits(model.network, x, batch)
    compacted = torch_logits(compact(pruned, shape).network, x, batch)
    return [
        _claim(certificate, files[folder.CARD], scale),
        _files(certificate, files),
        _properties(certificate, files, x, y, model.graph.last_linear.out_features, scale),
        _mask(whole, pruned),
        _labels(certificate, y),
        _outputs("outputs: weights and mask, compacted", certificate, compacted, wanted),
        _outputs("outputs: ONNX Runtime", certificate, onnx_logits(files[folder.MODEL], x, batch), wanted),
        _counterexamples(certificate, model.network, x, y, scale, points, batch),
        *_verdicts(certificate, model.network, x, y, scale, batch),
    ]


def _samples(content: bytes, certificate: Certificate, graph: Graph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs `(samples, *shape)`, labels `(samples,)`, which fit the certificate and the network, what epsilon is
    multiplied with for each feature, of the shape of an input, and `(falsified, *shape)`: one input for each falsified
    sample."""
    with _naming(folder.SAMPLES):
        found = folder.parse_tensors(content)
    names = ("inputs", "labels", "scale", "counterexamples")
    if found.keys() != set(names):
        raise ExportError(f"{folder.SAMPLES} must hold {', '.join(names)}, got {sorted(found)!r:.80}")
    x, y, scale, points = (found[name] for name in names)
    wanted = (len(certificate.samples), *graph.nodes[0].shape)
    if x.dtype != torch.float32 or y.dtype != torch.int64 or tuple(x.shape) != wanted or y.shape != x.shape[:1]:
        raise ExportError(
            f"{folder.SAMPLES} must hold float32 inputs of shape {wanted}, as many as the certificate names, and an "
            f"int64 label for each; got {x.dtype} {tuple(x.shape)} and {y.dtype} {tuple(y.shape)}"
        )
    if scale.dtype != torch.float32 or scale.shape != x.shape[1:]:
        raise ExportError(
            f"{folder.SAMPLES} must hold a float32 scale of shape {wanted[1:]}, got {scale.dtype} {tuple(scale.shape)}"
        )
    if not bool((scale >= 0).all() and scale.isfinite().all() and (scale > 0).any()):
        raise ExportError(f"{folder.SAMPLES} must hold a finite scale of at least 0, and above 0 somewhere")
    if points.dtype != torch.float32 or points.shape[1:] != x.shape[1:]:
        raise ExportError(
            f"{folder.SAMPLES} must hold float32 counterexamples of the inputs' shape, got {points.dtype} "
            f"{tuple(points.shape)}"
        )
    return x, y, scale, points


def _whole(files: Mapping[str, bytes], shape: tuple[int, ...]) -> tuple[nn.Sequential, nn.Sequential]:
    """The network before compaction, as its weights are and as its mask leaves them."""
    with _naming(folder.WEIGHTS):
        weights = folder.parse_tensors(files[folder.WEIGHTS])
    with _naming(folder.NETWORK):
        whole = built(folder.parse_json(files[folder.NETWORK]), weights)
        traced(whole, shape)
    pruned = copy.deepcopy(whole)
    with _naming(folder.MASK):
        Mask(folder.parse_tensors(files[folder.MASK])).apply_(pruned)
    return whole, pruned


def _claim(certificate: Certificate, card: bytes, scale: Tensor) -> Check:
    """What is certified, and whether the card says the same."""
    with _naming(folder.CARD):
        told = folder.parse_json(card)
    told = told if isinstance(told, dict) else {}
    data = told.get("data")
    data = data if isinstance(data, dict) else {}
    pairs = {
        "epsilon": (told.get("epsilon"), certificate.epsilon),
        "norm": (told.get("norm", "linf"), certificate.norm),
        "low": (data.get("low"), certificate.low),
        "high": (data.get("high"), certificate.high),
        "shape": (data.get("shape"), list(scale.shape)),
    }
    differing = [
        f"{name}: {in_card!r:.80} in the card, {value!r}"
        for name, (in_card, value) in pairs.items()
        if in_card != value
    ]
    verdicts = [sample.verdict for sample in certificate.samples]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in ("verified", "falsified", "unknown"))
    least, most = float(scale.min()), float(scale.max())
    times = "" if least == most == 1 else f" times {least:g} to {most:g}"
    by = by_norm(certificate.norm)
    detail = f"epsilon {certificate.epsilon:g}{times}{by} in [{certificate.low:g}, {certificate.high:g}]: {counts}"
    return Check.of("claim", len(pairs), differing, detail)


def _files(certificate: Certificate, files: Mapping[str, bytes]) -> Check:
    changed = [name for name, content in files.items() if folder.digest(content) != certificate.sha256[name]]
    return Check.of("files", len(files), [f"{name} is not the file that was written" for name in changed])


def _properties(
    certificate: Certificate, files: Mapping[str, bytes], x: Tensor, y: Tensor, classes: int, scale: Tensor
) -> Check:
    """Whether the properties are those of the samples, and whether `instances.csv` lists them."""
    position = {folder.property_file(sample.index): where for where, sample in enumerate(certificate.samples)}
    asked = [name for name in files if name not in (*folder.HASHED, folder.INSTANCES)]
    box = {"epsilon": certificate.epsilon, "low": certificate.low, "high": certificate.high}
    differing = []
    for name in asked:
        where = position.get(name)
        wanted = None
        if where is not None and certificate.norm == "linf":
            wanted = property_text(x[where].numpy(), int(y[where]), classes, **box, scale=scale.numpy())
        if wanted is None or files[name] != wanted.encode():
            differing.append(f"{name} is not the property of its sample")
    if folder.INSTANCES in files:
        listed = instances_text([certificate.samples[position[name]].index for name in asked if name in position])
        if sorted(files[folder.INSTANCES].decode(errors="replace").splitlines()) != sorted(listed.splitlines()):
            differing.append(f"{folder.INSTANCES} does not list them")
    return Check.of("properties", len(asked) + (folder.INSTANCES in files), differing)


def _mask(whole: nn.Sequential, pruned: nn.Sequential) -> Check:
    left = prunable_weights(pruned)
    changed = [name for name, weight in prunable_weights(whole).items() if not torch.equal(weight, left[name])]
    return Check.of("mask", len(left), [f"{name} has weights that the mask has pruned" for name in changed])


def _labels(certificate: Certificate, y: Tensor) -> Check:
    pairs = zip(certificate.samples, y.tolist(), strict=True)
    differing = [f"sample {one.index}: {one.label}, found {label}" for one, label in pairs if one.label != label]
    return Check.of("labels", len(y), differing)


def _outputs(what: str, certificate: Certificate, found: Tensor, wanted: Tensor) -> Check:
    apart = difference(found, wanted)
    pairs = zip(certificate.samples, apart.tolist(), strict=True)
    # Not a comparison with >: NaN agrees with nothing.
    differing = [f"sample {one.index}: by {value:.2g}" for one, value in pairs if not value <= AGREEMENT]
    return Check.of(what, len(apart), differing, f"largest difference {float(apart.max()):.1e}")


@torch.no_grad()
def _counterexamples(
    certificate: Certificate, network: nn.Sequential, x: Tensor, y: Tensor, scale: Tensor, points: Tensor, batch: int
) -> Check:
    """Whether each is within epsilon of its sample and of another class, by a forward pass in float64."""
    where = [index for index, sample in enumerate(certificate.samples) if sample.verdict == "falsified"]
    if len(points) != len(where):
        return Check.of("counterexamples", max(1, len(where)), [f"{len(points)} for {len(where)} falsified samples"])
    if not where:
        return Check.of("counterexamples", 0, [])
    points = points.double()
    inside = _within(certificate, (points - x[where].double()).abs(), certificate.epsilon * scale.double())
    inside &= ((points >= certificate.low) & (points <= certificate.high)).flatten(1).all(1)
    other = torch_logits(copy.deepcopy(network).double(), points, batch).argmax(1) != y[where]
    differing = [
        f"sample {certificate.samples[index].index}: {'is of the same class' if within else 'lies beyond epsilon'}"
        for index, within, flipped in zip(where, inside.tolist(), other.tolist(), strict=True)
        if not (within and flipped)
    ]
    return Check.of("counterexamples", len(where), differing)


def _within(certificate: Certificate, distances: Tensor, radius: Tensor) -> Tensor:
    """`(points,)`: which are within epsilon, by distances `(points, *shape)` and the radius of each feature."""
    most = radius * (1 + BEYOND) + BEYOND
    if certificate.norm == "l2":
        return (distances / most).flatten(1).norm(dim=1) <= 1
    return (distances <= most).flatten(1).all(1)


def _verdicts(
    certificate: Certificate, network: nn.Sequential, x: Tensor, y: Tensor, scale: Tensor, batch: int
) -> list[Check]:
    """What the cascade finds now, by the stage that had decided, and margins: where another stage has come to the same
    verdict, the recorded one may be smaller.

    How far the exact stage comes in its seconds depends on the machine: what it had left undecided it may decide now.
    """
    recorded = certificate.samples
    try:
        found = verify(
            network,
            x,
            y,
            epsilon=certificate.epsilon,
            low=certificate.low,
            high=certificate.high,
            scale=scale,
            norm=certificate.norm,
            options=replace(certificate.cascade, batch_size=batch),
            seed=certificate.seed,
        )
    except SoundnessError as error:
        return [Check.of("soundness", 1, [str(error)])]
    except ValueError as error:
        raise ExportError(f"{folder.SAMPLES}: {error}") from error
    pairs = list(zip(recorded, sample_verdicts([one.index for one in recorded], y.tolist(), found), strict=True))
    stages = [
        stage for stage in ("natural", *certificate.cascade.stages, "") if any(a.stage == stage for a, _ in pairs)
    ]
    later = sum(_had_more_time(before, now) for before, now in pairs)
    told = {"": f"{later} more decided than in the time there was"} if later else {}
    checks = [
        Check.of(
            f"verdicts: {stage or UNKNOWN}",
            sum(before.stage == stage for before, _ in pairs),
            [
                _story(before, now)
                for before, now in pairs
                if before.stage == stage and before.verdict != now.verdict and not _had_more_time(before, now)
            ],
            told.get(stage, ""),
        )
        for stage in stages
    ]
    same = [
        (before, now)
        for before, now in pairs
        if before.verdict == now.verdict and not _depends_on_time(before) and not _depends_on_time(now)
    ]
    apart = [_apart(before.margin, now.margin, less=before.stage != now.stage) for before, now in same]
    margins = [
        f"sample {before.index}: {before.margin}, found {now.margin}"
        for (before, now), value in zip(same, apart, strict=True)
        if not value <= SAME_MARGIN
    ]
    return [*checks, Check.of("margins", len(same), margins, f"largest difference {max(apart, default=0.0):.1e}")]


def _depends_on_time(sample: SampleVerdict) -> bool:
    """Whether its margin does: also how far bounds had come when the exact stage met a counterexample."""
    return _ran_out_of_time(sample) or (sample.stage, sample.verdict) == ("exact", "falsified")


def _had_more_time(before: SampleVerdict, now: SampleVerdict) -> bool:
    return _ran_out_of_time(before) and now.stage == "exact"


def _ran_out_of_time(sample: SampleVerdict) -> bool:
    return sample.verdict == UNKNOWN and sample.reason.startswith(f"exact: {TIME_OUT}")


def _story(before: SampleVerdict, now: SampleVerdict) -> str:
    found = now.stage or now.reason
    return f"sample {before.index}: {before.verdict}, found {now.verdict}{f' ({found})' if found else ''}"


def _apart(before: float | None, now: float | None, *, less: bool) -> float:
    """How far margins are apart, relative to the one that is found now; with `less`, how far it is exceeded."""
    if before is None or now is None:
        return 0.0 if before is now or (less and before is None) else math.inf
    difference = before - now
    return (max(difference, 0.0) if less else abs(difference)) / max(1.0, abs(now))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts the name of the file before what is wrong in it."""
    try:
        yield
    except (ExportError, ValueError) as error:
        raise ExportError(f"{name}: {error}") from error
