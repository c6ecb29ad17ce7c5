"""Where inputs may lie, and the boxes that intervals are: boxes for Linf, ellipsoids for L2."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Norm: TypeAlias = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = ("linf", "l2")
Climb: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]
"""Takes points `(batch, *shape)` so many radii along their gradients, and back into their regions; overwrites both."""


class Box(NamedTuple):
    """All points within `radius` of `centre`, value by value; both `(batch, *shape)`."""

    centre: Tensor
    radius: Tensor

    @property
    def lower(self) -> Tensor:
        return self.centre - self.radius

    @property
    def upper(self) -> Tensor:
        return self.centre + self.radius

    def box(self) -> Box:
        """The smallest box around each region: itself."""
        return self

    def pick(self, samples: Tensor | slice) -> Box:
        """The boxes of some samples of the batch."""
        return Box(self.centre[samples], self.radius[samples])

    def detach(self) -> Box:
        """The same boxes as constants."""
        return Box(self.centre.detach(), self.radius.detach())

    def lowest(self, rows: Tensor, owner: Tensor | slice) -> Tensor:
        """The points `(rows, values)` at which linear functions with these coefficients are least.

        Args:
            rows: `(rows, values)`, coefficients on the flattened value; taken as constants.
            owner: the sample of each row, in whose box its point lies.
        """
        centre, radius = self.centre.flatten(1)[owner], self.radius.flatten(1)[owner]
        return torch.addcmul(centre, rows.detach().sign(), radius, value=-1)

    def project(self, points: Tensor) -> Tensor:
        """The nearest points `(batch, *shape)` of the boxes."""
        return torch.clamp(points, self.lower, self.upper)

    def climb(self) -> Climb:
        """Steps along which linear functions with these gradients grow most. The ends are computed once for all steps,
        since those of latent boxes cost about as much as the network behind them."""
        radius, lower, upper = self.radius, self.lower, self.upper
        return lambda points, gradient, rate: points.addcmul_(gradient.sign_(), radius, value=rate).clamp_(lower, upper)

    def part_around(self, points: Tensor, share: float) -> Box:
        """Boxes of `share` times the radius, in [0, 1], within these, as close to being centred at `points` as that
        goes."""
        inner = Box(self.centre, self.radius * (1.0 - share))
        return Box(inner.project(points), self.radius * share)


class Ball(NamedTuple):
    """All points of `[low, high]` whose distances from `centre`, divided by `radius` value by value, have an L2 norm of
    at most 1: a ball where all radii of a sample are equal, else an ellipsoid. Both `(batch, *shape)`.

    Linear functions are bounded over the ball as a whole, as if `[low, high]` did not cut it.
    """

    centre: Tensor
    radius: Tensor
    low: float
    high: float

    @property
    def lower(self) -> Tensor:
        return (self.centre - self.radius).clamp(min=self.low)

    @property
    def upper(self) -> Tensor:
        return (self.centre + self.radius).clamp(max=self.high)

    def box(self) -> Box:
        """As of `Box`."""
        lower, upper = self.lower, self.upper
        return Box((lower + upper) * 0.5, (upper - lower) * 0.5)

    def pick(self, samples: Tensor | slice) -> Ball:
        """As of `Box`."""
        return self._replace(centre=self.centre[samples], radius=self.radius[samples])

    def detach(self) -> Ball:
        """As of `Box`."""
        return self._replace(centre=self.centre.detach(), radius=self.radius.detach())

    def lowest(self, rows: Tensor, owner: Tensor | slice) -> Tensor:
        """As of `Box`."""
        centre, radius = self.centre.flatten(1)[owner], self.radius.flatten(1)[owner]
        scaled = rows.detach().to(radius.dtype) * radius
        return torch.addcmul(centre, _unit(scaled), radius, value=-1)

    def project(self, points: Tensor) -> Tensor:
        """Points `(batch, *shape)` of the balls, on the way from the centres to `points`, then moved into the range."""
        inside = self.radius > 0
        scaled = torch.where(inside, (points - self.centre) / torch.where(inside, self.radius, 1.0), 0.0)
        beyond = _norm(scaled.flatten(1)).clamp_(min=1.0).view(-1, *[1] * (points.dim() - 1))
        # The centre is in the range, so that what the range cuts off brings a point closer to it.
        return torch.addcmul(self.centre, scaled / beyond, self.radius).clamp_(self.low, self.high)

    def climb(self) -> Climb:
        """As of `Box`."""

        def step(points: Tensor, gradient: Tensor, rate: float) -> Tensor:
            direction = _unit((gradient * self.radius).flatten(1)).view_as(gradient)
            return self.project(points + rate * (self.radius * direction))

        return step

    def part_around(self, points: Tensor, share: float) -> Ball:
        """As of `Box`: balls, each within its ball by the triangle inequality."""
        inner = self._replace(radius=self.radius * (1.0 - share))
        return self._replace(centre=inner.project(points), radius=self.radius * share)


Region: TypeAlias = Box | Ball
"""Of inputs."""


def input_box(x: Tensor, epsilon: float | Tensor, low: float, high: float, scale: float | Tensor = 1.0) -> Box:
    """The points within `r = epsilon scale` of `x` that lie in the input range: `[max(low, x - r), min(high, x + r)]`.

    Args:
        x: `(batch, *shape)`, within `[low, high]`.
        epsilon: in the units of the input, not negative; a tensor must broadcast to `x`.
        scale: of each feature, not negative; a tensor must broadcast to `shape`.

    Raises:
        ValueError: for a negative or NaN `epsilon`.
    """
    radius = _radius(epsilon, scale)
    lower = (x - radius).clamp_(min=low)
    upper = (x + radius).clamp_(max=high)
    # Halving the sum is exact where both ends are x, so that a box of epsilon 0 is the point itself.
    return Box((lower + upper).mul_(0.5), (upper - lower).mul_(0.5))


def input_region(
    x: Tensor, epsilon: float | Tensor, low: float, high: float, scale: float | Tensor = 1.0, norm: Norm = "linf"
) -> Region:
    """The points of the input range within `epsilon` of `x` by a norm of differences over `scale`.

    Args and raises as `input_box`, which this is for Linf.
    """
    if norm == "linf":
        return input_box(x, epsilon, low, high, scale)
    return Ball(x, torch.zeros_like(x) + _radius(epsilon, scale), low, high)


def spread(region: Region, product: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> Tensor:
    """The radius of a linear map of a region: for each value the dual norm of its weights times the radii.

    Over a ball no square overflows, and what may be lost of those that underflow is added, whatever the sizes of radii
    and weights.

    Args:
        product: applies the map with some weights to radii; without constants.
        weight: of the map.
    """
    if isinstance(region, Box):
        return product(region.radius, weight.abs())
    radius, tiny = region.radius, torch.finfo(region.radius.dtype).tiny
    widest = radius.flatten(1).amax(1).view(-1, *[1] * (radius.dim() - 1))
    largest = weight.detach().abs().amax()
    squares = product((radius / widest.clamp(min=tiny)).square(), (weight / largest.clamp(min=tiny)).square())
    # It also keeps the gradient of the root finite where all weights are pruned.
    lost = 3 * tiny * math.prod(radius.shape[1:])
    return (squares + lost).sqrt() * (largest * widest).view(-1, *[1] * (squares.dim() - 1))


def _radius(epsilon: float | Tensor, scale: float | Tensor) -> float | Tensor:
    if not isinstance(epsilon, Tensor) and not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    return epsilon * scale


def _norm(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, dim=1, keepdim=True)


def _unit(values: Tensor) -> Tensor:
    """Each row over its norm, whatever its size; 0 where that is 0."""
    tiny = torch.finfo(values.dtype).tiny
    scaled = values / values.abs().amax(1, keepdim=True).clamp(min=tiny)
    return scaled / _norm(scaled).clamp(min=tiny)
