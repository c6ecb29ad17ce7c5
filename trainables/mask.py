"""Which weights a network keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


def prunable_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights that sparsity is counted over: those of every convolution and linear layer, by parameter name.

    Biases and normalisation parameters are never pruned and never counted.
    """
    return {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


class Mask(Mapping[str, Tensor]):
    """A checked 0/1 value per prunable weight: True is kept, False is pruned. Immutable.

    Raises:
        ValueError: a tensor is not boolean, or there is none at all.
    """

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        if not kept:
            raise ValueError("a mask needs at least one weight tensor; the network has no convolution or linear layer")
        for name, tensor in kept.items():
            if tensor.dtype is not torch.bool:
                raise ValueError(f"a mask holds booleans only, but {name!r} is {tensor.dtype}: compare it first")
        self._kept = {name: tensor.detach().clone() for name, tensor in kept.items()}
        self._total = sum(tensor.numel() for tensor in self._kept.values())
        self._kept_count = sum(int(tensor.sum()) for tensor in self._kept.values())

    @classmethod
    def dense(cls, network: nn.Module) -> Mask:
        """The mask that keeps every prunable weight of `network`."""
        return cls({name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable_weights(network).items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def total(self) -> int:
        """Number of weights the mask speaks of, kept or not."""
        return self._total

    @property
    def kept(self) -> int:
        """Number of weights kept."""
        return self._kept_count

    @property
    def sparsity(self) -> float:
        """Fraction of weights removed, in [0, 1]."""
        return 1.0 - self.kept / self.total

    @torch.no_grad()
    def apply_(self, network: nn.Module) -> None:
        """Set the pruned weights of `network` to exactly zero, in place.

        Masks are always materialised into the plain weights: bounds are computed from those, and auto_LiRPA is unsound
        on a network that multiplies by a mask in its forward pass.

        Raises:
            ValueError: the mask belongs to a network of other layers or shapes.
        """
        weights = prunable_weights(network)
        if weights.keys() != self.keys():
            raise ValueError(f"the mask covers {sorted(self)}, the network has {sorted(weights)}")
        for name, weight in weights.items():
            if weight.shape != self[name].shape:
                raise ValueError(f"mask {name!r} has shape {tuple(self[name].shape)}, its weight {tuple(weight.shape)}")
            weight.masked_fill_(~self[name].to(weight.device), 0.0)

    def zero_gradients_(self, network: nn.Module) -> None:
        """Remove the gradient of pruned weights, so that no optimizer moment builds up for them."""
        for name, weight in prunable_weights(network).items():
            if weight.grad is not None:
                weight.grad.masked_fill_(~self[name].to(weight.device), 0.0)
