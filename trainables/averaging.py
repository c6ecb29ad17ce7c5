"""Averaged weights beside those that train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .mask import Mask

ITERATE = "iterate"
"""Prefix under which a checkpoint holds the weights that train; its `weights` are the average."""


class Average:
    """The exponential moving average of a network's parameters and statistics, pruned weights at zero as there.

    Args:
        network: the one that trains.
        decay: what is left of the average after each step, in (0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay = network, decay
        self.state: dict[str, Tensor] = {}
        self.restart_()

    def restart_(self) -> None:
        """Begin again with the network as it is."""
        self.state = {name: value.clone() for name, value in self._network.state_dict().items()}

    @torch.no_grad()
    def update_(self, mask: Mask) -> None:
        """Take in the network after a step."""
        for name, value in self._network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1.0 - self._decay)
            else:
                self.state[name].copy_(value)
        self.prune_(mask)

    def prune_(self, mask: Mask) -> None:
        """Set what the mask has pruned to zero."""
        for name, kept in mask.items():
            self.state[name].masked_fill_(~kept.to(self.state[name].device), 0.0)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the network is the average; afterwards it is what it was."""
        trained = {name: value.clone() for name, value in self._network.state_dict().items()}
        self._network.load_state_dict(self.state)
        try:
            yield
        finally:
            self._network.load_state_dict(trained)

    def iterate(self) -> dict[str, Tensor]:
        """The weights that train, as a checkpoint keeps them."""
        return {f"{ITERATE}/{name}": value for name, value in self._network.state_dict().items()}

    def load_(self, average: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put back the average and, where they are still there, the weights that train.

        Returns:
            what `optimizer` holds beside these.
        """
        self._network.load_state_dict(average)
        self.restart_()
        prefix = f"{ITERATE}/"
        iterate = {key.removeprefix(prefix): value for key, value in optimizer.items() if key.startswith(prefix)}
        if iterate:
            self._network.load_state_dict(iterate)
        return {key: value for key, value in optimizer.items() if not key.startswith(prefix)}
