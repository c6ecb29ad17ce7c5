"""The small box around an attacked point (Müller et al. 2023, arXiv 2210.04871)."""

from __future__ import annotations

from dataclasses import dataclass

from ..bounds import Graph, Region
from .attacked import Attacked
from .base import Batch, check_positive, check_share


@dataclass(frozen=True, kw_only=True)
class SmallBoxed(Attacked):
    """A loss over a part of the region, a box or a ball, where it is likely to be worst.

    The part has `subselection` times the radius, in each feature, and lies wholly in the region: its centre is what an
    attack on all of it finds, moved inwards as far as that takes. Published code differs where the input range clips a
    box: the radius of the part is a share of what is left (as here), or of epsilon.

    Attributes:
        subselection: the paper's lambda, in (0, 1]; 1 is the whole box. Published: 0.4 on MNIST at 0.1, 0.6 to 0.9 at
            0.3; 0.1 on CIFAR-10 at 2/255, there with boxes that shrink before unstable ReLUs as well, which is not done
            here; 0.7 to 0.9 at 8/255.
    """

    subselection: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("subselection", self.subselection)
        check_positive("subselection", self.subselection)

    def small_box(self, graph: Graph, batch: Batch) -> Region:
        """The part of the region, on a settled graph."""
        return batch.region.part_around(self.attack(graph, batch.region, batch), self.subselection)
