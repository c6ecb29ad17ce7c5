"""The certificate: what was decided of each sample, by which stage, and of which files."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, final

from pydantic import Field, StrictFloat, StrictInt, StrictStr, field_validator, model_validator

from ...results import ExportError
from ...results.record import SPLITS
from ...spaces import SpecError
from ...spaces.model import SpecModel
from ...spaces.rules import check_norm
from ...spaces.suggest import listed
from ..verification import CascadeOptions, Verdict, Verification
from .folder import CERTIFICATE, HASHED, may_be_hashed, parse_json, to_json

FORMAT = "sparsevlr-certificate"
MOST = {
    "batch_size": 1 << 16,
    "pgd_steps": 10_000,
    "pgd_restarts": 1000,
    "alpha_iterations": 10_000,
    "exact_seconds": 3600.0,
}
"""What a cascade may ask for at most: a certificate may be anybody's, and what it asks for is run."""


@final
class SampleVerdict(SpecModel):
    """What is known of one sample.

    Attributes:
        index: of the sample in its split.
        stage: that decided; empty where the verdict is unknown.
        margin: the best lower bound of the smallest margin; null where no stage gave one.
        reason: why an unknown sample was not bounded further; empty otherwise.
    """

    index: StrictInt = Field(ge=0)
    label: StrictInt = Field(ge=0)
    verdict: StrictStr
    stage: StrictStr
    margin: StrictFloat | None
    reason: StrictStr = ""

    @field_validator("verdict")
    @classmethod
    def _check_verdict(cls, verdict: str) -> str:
        if verdict not in Verdict.__members__:
            raise SpecError(f"verdict must be one of {listed(Verdict.__members__)}, got {verdict[:80]!r}")
        return verdict


@final
class Certificate(SpecModel):
    """Verdicts of the network in `model.onnx` on the samples in `samples.safetensors`, and all it takes to find them
    again.

    Attributes:
        epsilon: within which inputs are, in the units of the inputs, times the scale of each feature in the samples
            file; inputs are clipped to `[low, high]`.
        norm: that epsilon is measured by, of differences over the scale.
        seed: of the attack and the audit.
        samples: in the order of the samples file.
        sha256: digests of files of the export, by name.
    """

    format: Literal["sparsevlr-certificate"] = "sparsevlr-certificate"
    version: Literal[1] = 1
    split: StrictStr
    epsilon: StrictFloat = Field(gt=0)
    norm: Literal["linf", "l2"] = "linf"
    low: StrictFloat
    high: StrictFloat
    cascade: CascadeOptions
    seed: StrictInt = Field(ge=0, lt=1 << 63)
    samples: tuple[SampleVerdict, ...] = Field(min_length=1)
    sha256: Mapping[str, StrictStr]

    def to_bytes(self) -> bytes:
        """As `certificate.json` holds it."""
        return to_json(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, content: bytes) -> Certificate:
        """
        Raises:
            ExportError: one line on the first thing wrong.
        """
        try:
            found = parse_json(content)
        except ExportError as error:
            raise ExportError(f"{CERTIFICATE}: {error}") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ExportError(f"{CERTIFICATE} is no certificate: its format must be {FORMAT!r}")
        if found.get("version") != 1:
            raise ExportError(f"{CERTIFICATE} has version {found.get('version')!r:.80}; this sparsevlr reads version 1")
        try:
            return cls(**found)
        except SpecError as error:
            raise ExportError(f"{CERTIFICATE}: {error}") from error

    @field_validator("split")
    @classmethod
    def _check_split(cls, split: str) -> str:
        if split not in SPLITS:
            raise SpecError(f"split must be one of {listed(SPLITS)}, got {split[:80]!r}")
        return split

    @field_validator("cascade", mode="before")
    @classmethod
    def _check_options(cls, cascade: Any) -> Any:
        known = [field.name for field in dataclasses.fields(CascadeOptions)]
        for name in cascade if isinstance(cascade, Mapping) else ():
            if name not in known:
                raise SpecError(f"cascade.{name[:80]} is unknown; a newer sparsevlr may know it")
        return cascade

    @field_validator("cascade", mode="after")
    @classmethod
    def _check_effort(cls, cascade: CascadeOptions) -> CascadeOptions:
        for name, most in MOST.items():
            if getattr(cascade, name) > most:
                raise SpecError(f"cascade.{name} must be at most {most}, got {getattr(cascade, name)}")
        return cascade

    @field_validator("sha256", mode="after")
    @classmethod
    def _check_digests(cls, digests: Mapping[str, str]) -> Mapping[str, str]:
        for name in (*HASHED, *digests):
            if name not in digests:
                raise SpecError(f"sha256 must name {name}")
            if not may_be_hashed(name):
                raise SpecError(f"sha256 names {name[:80]!r}, which is no file of an export")
            if not re.fullmatch("[0-9a-f]{64}", digests[name]):
                raise SpecError(f"sha256 of {name} must be 64 hexadecimal digits, got {digests[name][:80]!r}")
        return digests

    @model_validator(mode="after")
    def _check_together(self) -> Certificate:
        if not self.low < self.high:
            raise SpecError(f"low must be below high, got {self.low:g} and {self.high:g}")
        check_norm(self.norm, "cascade.stages", self.cascade.stages)
        stages = ("natural", *self.cascade.stages)
        seen: set[int] = set()
        for one in self.samples:
            if one.index in seen:
                raise SpecError(f"every sample must be of an index of its own, got {one.index} twice")
            seen.add(one.index)
            if one.stage not in (("",) if one.verdict == "unknown" else stages):
                raise SpecError(
                    f"the stage of sample {one.index} must be one of {', '.join(stages)}, or empty if it is unknown, "
                    f"got {one.stage[:80]!r}"
                )
        return self


def sample_verdicts(indices: list[int], labels: list[int], found: Verification) -> tuple[SampleVerdict, ...]:
    """The verdicts of a verification, sample by sample.

    Args:
        indices: of the samples in their split.
    """
    return tuple(
        SampleVerdict(
            index=index,
            label=label,
            verdict=Verdict(int(found.verdict[position])).name,
            stage=str(found.stage[position]),
            margin=margin if math.isfinite(margin := float(found.margin[position])) else None,
            reason=str(found.reason[position]),
        )
        for position, (index, label) in enumerate(zip(indices, labels, strict=True))
    )
