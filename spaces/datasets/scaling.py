"""Scaling that is learnt on the training split alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def min_max_scaled(parts: list[NDArray[Any]], *, over: tuple[int, ...] = (0,)) -> list[NDArray[np.float32]]:
    """`parts` (the first of them train) brought to [0, 1] by the training minimum and maximum, the others clipped.

    Clipping keeps every input in the stated range, at the price of a slightly wrong value where validation or test
    exceed what training saw. A feature that is constant in training becomes 0 everywhere.

    Args:
        parts: arrays `(n_i, *shape)`.
        over: axes that share one minimum and maximum; (0,) scales each feature by itself, (0, 2) each channel of
            `(n, channels, length)`.
    """
    # Whole numbers of few bits would wrap around, and truth values have no difference.
    parts = [part if part.dtype in (np.float32, np.float64) else part.astype(np.float64) for part in parts]
    low = parts[0].min(axis=over, keepdims=True)
    high = parts[0].max(axis=over, keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    return [np.clip((part - low) / span, 0.0, np.where(high > low, 1.0, 0.0)).astype(np.float32) for part in parts]
