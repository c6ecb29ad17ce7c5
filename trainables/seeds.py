"""Randomness as a function of what it is for, so that nothing has to be remembered between epochs."""

from hashlib import sha256

import torch


def derived_seed(*purpose: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part of `purpose`, the same on every machine."""
    digest = sha256("/".join(map(str, purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*purpose: int | str) -> torch.Generator:
    """A CPU generator seeded by `derived_seed(*purpose)`."""
    return torch.Generator().manual_seed(derived_seed(*purpose))
