"""What a verification cascade does and may spend."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from ...spaces.errors import SpecError
from .alpha_crown import AlphaCrown
from .base import Verifier
from .crown import Crown
from .crown_ibp import CrownIbp
from .exact import Exact
from .ibp import Ibp
from .pgd import Pgd

VERIFIERS: Mapping[str, type[Verifier]] = MappingProxyType(
    {"ibp": Ibp, "crown-ibp": CrownIbp, "crown": Crown, "alpha-crown": AlphaCrown, "exact": Exact}
)
"""The name of each verifier in a cascade, in order of cost."""

ATTACK = "pgd"
"""The one stage that only falsifies."""


@final
@dataclass(frozen=True)
class CascadeOptions:
    """The stages of a cascade and their budgets: of samples and iterations, so that verdicts repeat, and of seconds for
    the exact stage alone.

    Attributes:
        stages: in the order they run, after natural accuracy; names of `VERIFIERS` and `pgd`.
        batch_size: samples bounded or attacked at once; it changes memory and time, not the verdicts.
        pgd_steps, pgd_restarts: of the attack.
        audit: how many verified samples are attacked all the same; None for all.
        max_crown_samples, max_alpha_crown_samples, max_exact_samples: how many undecided samples these stages may take,
            those closest to a proof first; None for all.
        alpha_iterations: gradient steps of alpha-CROWN.
        exact_seconds: of processor time that the exact stage may spend on a sample.

    Raises:
        SpecError: for an unknown or repeated stage, or a number out of its range.
    """

    stages: tuple[str, ...] = ("ibp", "pgd", "crown-ibp", "crown")
    batch_size: int = 256
    pgd_steps: int = 20
    pgd_restarts: int = 1
    audit: int | None = 32
    max_crown_samples: int | None = None
    max_alpha_crown_samples: int | None = None
    max_exact_samples: int | None = None
    alpha_iterations: int = 20
    exact_seconds: float = 30.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        known = (*VERIFIERS, ATTACK)
        for stage in self.stages:
            if stage not in known:
                raise SpecError(f"verification stages must be among {', '.join(known)}, got {stage!r}")
            if self.stages.count(stage) > 1:
                raise SpecError(f"a verification stage runs once, got {stage!r} {self.stages.count(stage)} times")
        for name in ("batch_size", "pgd_steps", "pgd_restarts", "alpha_iterations"):
            if getattr(self, name) < 1:
                raise SpecError(f"verification {name} must be at least 1, got {getattr(self, name)}")
        if not self.exact_seconds > 0:
            raise SpecError(f"verification exact_seconds must be above 0, got {self.exact_seconds}")
        for name in ("audit", "max_crown_samples", "max_alpha_crown_samples", "max_exact_samples"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise SpecError(f"verification {name} must be at least 0, or null for all, got {value}")

    @property
    def pgd(self) -> Pgd:
        """The attack."""
        return Pgd(steps=self.pgd_steps, restarts=self.pgd_restarts)

    def verifiers(self) -> dict[str, Verifier]:
        """One verifier per stage that verifies."""
        made: dict[str, Verifier] = {name: VERIFIERS[name]() for name in self.stages if name in VERIFIERS}
        if "alpha-crown" in made:
            made["alpha-crown"] = AlphaCrown(iterations=self.alpha_iterations)
        if "exact" in made:
            made["exact"] = Exact(seconds=self.exact_seconds)
        return made

    def limit(self, stage: str) -> int | None:
        """How many samples a stage may take; None for all."""
        limits = {
            "crown": self.max_crown_samples,
            "alpha-crown": self.max_alpha_crown_samples,
            "exact": self.max_exact_samples,
        }
        return limits.get(stage)
