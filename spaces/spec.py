"""The specification of a study: everything that decides its outcome, and nothing that runs."""

import re
from collections.abc import Mapping
from typing import Any, Literal, final

import numpy as np
from pydantic import (
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_serializer,
    field_validator,
    model_validator,
)

from .datasets import Dataset, check_dataset_name
from .epsilon_scale import check_scale, check_shape
from .errors import SpecError
from .frozen import FrozenMapping, freeze_all, thaw
from .model import SpecModel
from .objectives import OBJECTIVES, Direction
from .rules import DEFAULT_SPACE, check_architectures, check_names, check_norm, check_values, with_defaults
from .sections import Limits, Ramp, Resources, Scheduler, Verification
from .space import SearchSpace
from .suggest import closest, listed

CONSTANTS = ("data", "data_options", "epsilon", "epsilon_scale", "norm", "epochs", "ramp", "batch_size", "precision")
LATER = {"epsilon_scale": None, "norm": "linf", "precision": "float32"}
"""Constants that there was no choice of before, with what that means: so old studies keep their fingerprints."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@final
class StudySpec(SpecModel):
    """A study.

    Whether code of the user's own may run is no part of it: a specification may come from somebody else.

    Attributes:
        name: the study's, a file name.
        data, data_options: as for `load_dataset`.
        epsilon: how far each input may move, in the units of the data's range; above 0.
        epsilon_scale: the radius of each feature as a multiple of epsilon, at least 0: nested lists that broadcast to
            the shape of an input; None is 1 everywhere.
        norm: by which an input is within epsilon, of differences over `epsilon_scale`: `linf` is a box, `l2` a ball.
        epochs: that a trial trains which is not stopped.
        ramp: the fractions of training between which epsilon grows from 0 to its full size.
        precision: of the products in training; `bfloat16` keeps weights, optimizer and losses in float32. Everything is
            scored and verified in float32 or better whatever this is.
        seed: of the sampler, and from which trials' seeds are derived.
        objectives: names of `OBJECTIVES`, the directions being fixed.
        starting_points: configurations that are tried first; values they leave out are drawn by the sampler.

    Raises:
        SpecError: on construction, one line on the first thing wrong.
    """

    name: StrictStr = "study"
    description: StrictStr = ""
    data: StrictStr
    data_options: Mapping[str, Any] = FrozenMapping({})
    epsilon: StrictFloat = Field(gt=0)
    epsilon_scale: tuple[Any, ...] | None = None
    norm: Literal["linf", "l2"] = "linf"
    epochs: StrictInt = Field(default=27, ge=1)
    ramp: Ramp = Ramp()
    batch_size: StrictInt = Field(default=128, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    trials: StrictInt = Field(default=32, ge=1)
    seed: StrictInt = Field(default=0, ge=0)
    objectives: tuple[StrictStr, ...] = Field(default=("verified_accuracy", "sparsity"), min_length=1)
    space: SearchSpace = Field(default_factory=lambda: SearchSpace(DEFAULT_SPACE))
    starting_points: tuple[Mapping[str, Any], ...] = ()
    sampler: Literal["tpe", "nsga2", "gp", "random"] = "tpe"
    scheduler: Scheduler = Scheduler()
    verification: Verification = Verification()
    limits: Limits = Limits()
    resources: Resources = Resources()

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs after which a trial reports and may be stopped; the last is `epochs`."""
        return self.scheduler.rungs(self.epochs)

    @property
    def directions(self) -> tuple[Direction, ...]:
        return tuple(OBJECTIVES[name] for name in self.objectives)

    def constants(self) -> dict[str, Any]:
        """What every trial has in common and what decides the network that a configuration trains to."""
        constants = self.model_dump(mode="json", include=set(CONSTANTS))
        return {name: value for name, value in constants.items() if name not in LATER or value != LATER[name]}

    def to_dict(self) -> dict[str, Any]:
        """The specification as JSON holds it; `from_dict` is the exact inverse."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "StudySpec":
        """
        Raises:
            SpecError: one line on the first thing wrong.
        """
        return cls(**{str(key): value for key, value in content.items()})

    def check_against(self, dataset: Dataset, *, allow_code: bool = False) -> None:
        """Check what only the data can tell, and that every architecture of the space can be built for it.

        Raises:
            SpecError: epsilon above the width of the input range (by L2 its diagonal), scales of another shape than the
                inputs, more samples to score than there are, an unknown architecture, or an option that none of the
                space's architectures has.
        """
        if self.epsilon_scale is not None:
            check_shape(self.epsilon_scale, dataset.shape, dataset.name)
        width, of = dataset.high - dataset.low, "width"
        if self.norm == "l2":
            moving = np.broadcast_to(1.0 if self.epsilon_scale is None else self.epsilon_scale, dataset.shape) > 0
            width, of = width * float(np.count_nonzero(moving)) ** 0.5, "diagonal"
        radius = self.epsilon * float(np.max(1.0 if self.epsilon_scale is None else self.epsilon_scale))
        if radius > width:
            what = "epsilon" if self.epsilon_scale is None else "epsilon times the largest of epsilon_scale"
            raise SpecError(
                f"{what} must be at most {width:g}, the {of} of the input range [{dataset.low:g}, {dataset.high:g}] "
                f"of {dataset.name!r}, got {radius:g}"
            )
        wanted, most = self.verification.samples, len(dataset.validation)
        if wanted is not None and wanted > most:
            raise SpecError(
                f"verification.samples must be at most {most}, the samples of the validation split of {dataset.name!r} "
                f"(null takes all), got {wanted}"
            )
        check_architectures(self.space, allow_code=allow_code)

    @field_validator("epsilon_scale")
    @classmethod
    def _check_scale(cls, scale: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if scale is None else check_scale(scale)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise SpecError(
                "name must be 1 to 100 letters, digits, '.', '_' or '-', and start with a letter or digit, "
                f"got {name!r}"
            )
        return name

    @field_validator("data")
    @classmethod
    def _check_data(cls, data: str) -> str:
        try:
            check_dataset_name(data)
        except SpecError as error:
            raise SpecError(f"data names an {error}") from None
        return data

    @field_validator("data_options", mode="after")
    @classmethod
    def _freeze_options(cls, options: Mapping[str, Any]) -> FrozenMapping:
        return freeze_all(options, "data_options")

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        for name in objectives:
            if name not in OBJECTIVES:
                raise SpecError(f"objectives must be of {listed(OBJECTIVES)}, got {name!r}{closest(name, OBJECTIVES)}")
        if len(set(objectives)) < len(objectives):
            raise SpecError(f"objectives must name each objective once, got {listed(objectives)}")
        return objectives

    @field_validator("space", mode="before")
    @classmethod
    def _parse_space(cls, space: Any) -> SearchSpace:
        if not isinstance(space, SearchSpace | Mapping):
            raise SpecError(f"space must be a mapping of names to parameters, got {space!r}")
        try:
            parsed = SearchSpace(with_defaults(space.parameters if isinstance(space, SearchSpace) else space))
            check_names(parsed)
            check_values(parsed)
        except SpecError as error:
            raise SpecError(f"space.{error}") from None
        return parsed

    @model_validator(mode="after")
    def _check_together(self) -> "StudySpec":
        first = self.scheduler.first_rung
        if self.scheduler.kind == "stopping" and first is not None and first > self.epochs:
            raise SpecError(f"scheduler.first_rung must be at most epochs, {self.epochs}, got {first}")
        scoring = self.verification
        asked = {"stages": scoring.stages, "rung_stages": scoring.rung_stages, "test_stages": scoring.final_stages}
        for key, stages in asked.items():
            check_norm(self.norm, f"verification.{key}", stages)
            if "adversarial_accuracy" in self.objectives and "pgd" not in stages:
                raise SpecError(f"objectives has adversarial_accuracy, which needs the stage pgd in verification.{key}")
        for index, point in enumerate(self.starting_points):
            try:
                self.space.check_point(point)
            except SpecError as error:
                raise SpecError(f"starting_points[{index}].{error}") from None
        return self

    @field_validator("starting_points", mode="after")
    @classmethod
    def _freeze_points(cls, points: tuple[Mapping[str, Any], ...]) -> tuple[FrozenMapping, ...]:
        return tuple(freeze_all(point, f"starting_points[{index}]") for index, point in enumerate(points))

    @field_serializer("space")
    def _plain_space(self, space: SearchSpace) -> dict[str, Any]:
        return space.to_dict()

    @field_serializer("data_options", "starting_points")
    def _plain_values(self, values: Any) -> Any:
        return thaw(values)
