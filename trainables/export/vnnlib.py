"""Robustness properties in VNN-LIB, the language in which verifiers are compared (vnnlib.org)."""

from __future__ import annotations

import numpy as np

from .folder import MODEL, property_file

SECONDS = 300
"""The time that an instance is given, as in the competitions of verifiers; nothing here depends on it."""


def property_text(
    x: np.ndarray, label: int, classes: int, *, epsilon: float, low: float, high: float, scale: np.ndarray
) -> str:
    """What a verifier must show to be impossible: an input of the box whose logit of another class is no smaller.

    Args:
        x: one input of any shape; X_i are its values, row by row.
        epsilon: radius of the box, which is clipped to `[low, high]`.
        scale: of the shape of `x`, the radius of each value as a multiple of epsilon.
    """
    values, radius = x.astype(np.float64).ravel(), epsilon * scale.astype(np.float64).ravel()
    lower, upper = np.maximum(values - radius, low), np.minimum(values + radius, high)
    lines = [f"; is there an input within {epsilon!r} that is not of class {label}?"]
    lines += [f"(declare-const X_{index} Real)" for index in range(len(values))]
    lines += [f"(declare-const Y_{index} Real)" for index in range(classes)]
    for index in range(len(values)):
        lines.append(f"(assert (>= X_{index} {_decimal(lower[index])}))")
        lines.append(f"(assert (<= X_{index} {_decimal(upper[index])}))")
    others = " ".join(f"(and (>= Y_{other} Y_{label}))" for other in range(classes) if other != label)
    return "\n".join([*lines, f"(assert (or {others}))", ""])


def instances_text(indices: list[int]) -> str:
    """One line per property: network, property, seconds."""
    return "".join(f"{MODEL},{property_file(index)},{SECONDS}\n" for index in indices)


def _decimal(value: float) -> str:
    """As many digits as float64 has, without the exponent that not every parser knows."""
    return np.format_float_positional(value, trim="0")
