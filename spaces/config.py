"""The configuration of one trial."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from .errors import SpecError
from .frozen import FrozenMapping, canonical_json, freeze, freeze_all, same, thaw
from .suggest import listed

TRIAL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
FINGERPRINT_DIGITS = 16


@final
@dataclass(frozen=True)
class TrialConfig:
    """What one trial does: dotted names with their values, such as `{"loss": "ibp", "loss.kappa_end": 0.5}`.

    Attributes:
        trial_id: unique in its study; letters, digits, `_` and `-`, since files are named after it.
        seed: of initial weights, data order and attacks; at least 0.
        values: the methods by family, their options as `family.option`, and `sparsity`, the fraction of weights to
            remove. Lists become tuples.

    Raises:
        SpecError: a trial_id, seed, sparsity or value that is none of these.
    """

    trial_id: str
    seed: int
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not TRIAL_ID.fullmatch(self.trial_id):
            raise SpecError(
                f"trial_id must be 1 to 64 letters, digits, _ or -, and start with no _ or -, got {self.trial_id!r}"
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise SpecError(f"seed must be a whole number of at least 0, got {self.seed!r}")
        object.__setattr__(self, "values", freeze_all(self.values, "values"))
        sparsity = self.values.get("sparsity", 0.0)
        if not isinstance(sparsity, int | float) or isinstance(sparsity, bool) or not 0 <= sparsity < 1:
            raise SpecError(f"sparsity must be at least 0 and below 1 (the fraction removed), got {sparsity!r}")

    @property
    def target_sparsity(self) -> float:
        """Fraction of weights to remove, in [0, 1)."""
        return float(self.values.get("sparsity", 0.0))

    def method(self, family: str) -> tuple[str, dict[str, Any]]:
        """The name of a family's method and its options, their family prefix removed.

        Raises:
            SpecError: when the configuration names no method of that family.
        """
        if family not in self.values:
            raise SpecError(f"the configuration names no {family} (it has: {listed(self.values)})")
        prefix = f"{family}."
        options = {name.removeprefix(prefix): value for name, value in self.values.items() if name.startswith(prefix)}
        return str(self.values[family]), options

    def fingerprint(
        self, constants: Mapping[str, Any] = FrozenMapping({}), defaults: Mapping[str, Any] = FrozenMapping({})
    ) -> str:
        """16 hexadecimal digits that are equal for equal configurations, whatever their trial_id and seed.

        The order of keys does not matter, nor does 1 against 1.0.

        Args:
            constants: what the study holds fixed, as `StudySpec.constants()`.
            defaults: values of options, by dotted name, that count as if they were left out; an option that a later
                version adds with its old behaviour as the default so keeps old fingerprints.
        """
        told = {
            name: value
            for name, value in self.values.items()
            if not (name in defaults and same(value, freeze(defaults[name], name)))
        }
        content = canonical_json({"constants": thaw(constants), "values": told})
        return hashlib.sha256(content.encode()).hexdigest()[:FINGERPRINT_DIGITS]

    def values_json(self) -> str:
        """The values alone, as a record's `config` column holds them: keys sorted, 1.0 as 1."""
        return canonical_json(self.values)

    def to_json(self) -> str:
        fields = {"trial_id": self.trial_id, "seed": self.seed, "values": thaw(self.values)}
        return json.dumps(fields, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "TrialConfig":
        """The inverse of `to_json`.

        Raises:
            SpecError: no JSON, or JSON of something else.
        """
        try:
            content = json.loads(text)
            return cls(trial_id=content["trial_id"], seed=content["seed"], values=content["values"])
        except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
            raise SpecError(
                f"a trial's configuration is JSON with trial_id, seed and values, got {text[:80]!r}"
            ) from error
