"""The sections of a study's specification."""

from typing import Any, Literal, final

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StrictFloat,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from .errors import SpecError
from .model import SpecModel
from .suggest import listed

BOUND_STAGES = ("ibp", "crown-ibp", "crown", "alpha-crown", "exact")
Stage = Literal["ibp", "pgd", "crown-ibp", "crown", "alpha-crown", "exact"]


@final
class Ramp(SpecModel):
    """The part of training over which epsilon grows from 0 to its full size: fractions of all epochs.

    Attributes:
        shape: a line, or one that begins smoothly.
    """

    start: StrictFloat = Field(default=0.0, ge=0, lt=1)
    end: StrictFloat = Field(default=0.6, gt=0, le=1)
    shape: Literal["smoothed", "linear"] = "smoothed"

    @model_serializer(mode="wrap")
    def _without_default_shape(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Studies from before there were shapes keep their fingerprints."""
        content: dict[str, Any] = dump(self)
        return {key: value for key, value in content.items() if (key, value) != ("shape", "smoothed")}

    @model_validator(mode="after")
    def _check(self) -> "Ramp":
        if not self.start < self.end:
            raise SpecError(f"end must be above start, got start {self.start:g} and end {self.end:g}")
        return self


@final
class Scheduler(SpecModel):
    """Which trials are stopped early.

    Attributes:
        kind: `stopping`: at each rung a trial goes on if it is among the best 1/eta so far, else it is stopped;
            `promotion`: it pauses, and goes on once it is among the best 1/eta of all that have come there since;
            `none`: every trial is trained to its end.
        eta: factor between rungs, and one over the share that goes on.
        first_rung: epochs at the first rung; by default two rungs before the last one.
    """

    kind: Literal["stopping", "promotion", "none"] = "stopping"
    eta: StrictInt = Field(default=3, ge=2)
    first_rung: StrictInt | None = Field(default=None, ge=1)

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Epochs after which trials are compared: first_rung * eta^k, and `epochs` last.

        A rung that would lie closer to the end than half a step (a factor of sqrt(eta)) is left out.
        """
        if self.kind == "none":
            return (epochs,)
        rung = self.first_rung or max(1, epochs // self.eta**2)
        rungs = []
        while rung**2 * self.eta <= epochs**2 and rung < epochs:
            rungs.append(rung)
            rung *= self.eta
        return (*rungs, epochs)


@final
class Verification(SpecModel):
    """How networks are scored.

    Attributes:
        samples: how many samples of the validation split are scored at each rung; all by default.
        test_samples: at most so many of the test split are scored, once, for the final front; null for all.
        stages: at the end of training, after the natural error, in this order; each sees only what is still undecided.
        test_stages: the same for the final front on the test split, and for exports; `stages` by default.
        rung_stages: the same at the rungs before. Half-trained networks leave most samples undecided, on which every
            further stage would spend more than the training did.
        pgd_steps, pgd_restarts: of the attack.
        max_crown_samples, max_alpha_crown_samples, max_exact_samples: undecided samples that these stages may take at
            each report, those closest to a proof first; the others stay unknown. All by default.
        alpha_iterations: gradient steps of alpha-CROWN.
        exact_seconds: of processor time that the exact stage may spend on a sample.
        grid: fractions of epsilon whose mean verified accuracy, by `ibp` and `crown-ibp` of the stages, is
            `verified_auc`.
        audit: verified samples that are attacked as well, to find unsound bounds; null for all.
        batch_size: samples that are bounded at once; it changes memory and speed, never a verdict.
    """

    samples: StrictInt | None = Field(default=None, ge=1)
    test_samples: StrictInt | None = Field(default=1000, ge=1)
    stages: tuple[Stage, ...] = ("ibp", "pgd", "crown-ibp", "crown")
    test_stages: tuple[Stage, ...] | None = None
    rung_stages: tuple[Stage, ...] = ("ibp",)
    pgd_steps: StrictInt = Field(default=20, ge=1)
    pgd_restarts: StrictInt = Field(default=1, ge=1)
    max_crown_samples: StrictInt | None = Field(default=None, ge=0)
    max_alpha_crown_samples: StrictInt | None = Field(default=None, ge=0)
    max_exact_samples: StrictInt | None = Field(default=None, ge=0)
    alpha_iterations: StrictInt = Field(default=20, ge=1)
    exact_seconds: StrictFloat = Field(default=30.0, gt=0)
    grid: tuple[StrictFloat, ...] = Field(default=(0.25, 0.5, 0.75, 1.0), min_length=1)
    audit: StrictInt | None = Field(default=32, ge=0)
    batch_size: StrictInt = Field(default=256, ge=1)

    @property
    def final_stages(self) -> tuple[Stage, ...]:
        """Of the front on the test split, and of exports."""
        return self.stages if self.test_stages is None else self.test_stages

    def stages_of(self, split: str, *, last: bool) -> tuple[Stage, ...]:
        """Of a report on a split, at the last rung or before."""
        if split == "test":
            return self.final_stages
        return self.stages if last else self.rung_stages

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Studies from before there were an exact stage and stages of the test split keep their fingerprints."""
        content: dict[str, Any] = dump(self)
        defaults = (("max_exact_samples", None), ("exact_seconds", 30.0), ("test_stages", None))
        return {key: value for key, value in content.items() if (key, value) not in defaults}

    @field_validator("stages", "rung_stages", "test_stages")
    @classmethod
    def _check_stages(cls, stages: tuple[Stage, ...] | None, field: ValidationInfo) -> tuple[Stage, ...] | None:
        if stages is None:
            return None
        if len(set(stages)) < len(stages):
            raise SpecError(f"{field.field_name} must name each stage once, got {listed(stages)}")
        if not set(stages) & set(BOUND_STAGES):
            raise SpecError(
                f"{field.field_name} must have one that proves ({listed(BOUND_STAGES)}), got {listed(stages) or 'none'}"
            )
        return stages

    @field_validator("grid")
    @classmethod
    def _check_grid(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < fraction <= 1 for fraction in grid) or list(grid) != sorted(set(grid)):
            raise SpecError(f"grid must be growing fractions of epsilon above 0 and at most 1, got {list(grid)}")
        return grid


@final
class Limits(SpecModel):
    """When a study ends before its last trial; null for no limit.

    Attributes:
        wall_seconds: of one `search` or `resume`, from its start.
        compute_seconds: of training and verification, summed over all trials as they report, over all sessions.
        stagnation: trials that have come to their end (completed, stopped or failed) since the hypervolume of the
            completed ones last grew.
        tolerance: relative growth of the hypervolume that is none yet.
        rung_seconds: of a trial from one report to the next, which ends no study: the trial is taken to hang, and has
            failed.
    """

    wall_seconds: StrictFloat | None = Field(default=None, gt=0)
    compute_seconds: StrictFloat | None = Field(default=None, gt=0)
    stagnation: StrictInt | None = Field(default=None, ge=1)
    tolerance: StrictFloat = Field(default=0.001, ge=0)
    rung_seconds: StrictFloat | None = Field(default=None, gt=0)


@final
class Resources(SpecModel):
    """What trials run on.

    Attributes:
        cpus_per_trial: processor cores; a trial has as many threads, one at least.
        gpus_per_trial: a fraction of one, or whole ones.
        memory_gb_per_trial: memory that is set aside on the trial's node, in units of 10^9 bytes; None sets none aside.
            Trials are placed by it, nothing ends one that takes more.
        workers: trials at the same time; as many as fit by default.
    """

    # Ray counts in ten-thousandths.
    cpus_per_trial: StrictFloat = Field(default=1.0, ge=1e-4)
    gpus_per_trial: StrictFloat = Field(default=0.0, ge=0)
    memory_gb_per_trial: StrictFloat | None = Field(default=None, gt=0)
    workers: StrictInt | None = Field(default=None, ge=1)

    @field_validator("gpus_per_trial")
    @classmethod
    def _check_gpus(cls, gpus: float) -> float:
        if (gpus > 1 and gpus % 1) or 0 < gpus < 1e-4:
            raise SpecError(
                "gpus_per_trial must be 0, a fraction of one GPU of at least 0.0001 or a whole number of them, "
                f"got {gpus:g}"
            )
        return gpus
