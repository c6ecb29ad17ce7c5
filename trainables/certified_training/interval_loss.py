"""Cross entropy on margins, the form in which bounds and attacks enter a loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..bounds import Graph, Region, interval_boxes, margin_lower_bounds
from .base import Batch


def interval_margins(graph: Graph, region: Region, batch: Batch) -> Tensor:
    """Lower bounds `(batch, classes)` of `logit_y - logit_k` over `region` by intervals; leaves the boxes."""
    boxes = interval_boxes(graph, region)
    batch.leave(boxes)
    return margin_lower_bounds(graph.last_linear, boxes[graph.features], batch.y)


def margin_cross_entropy(margins: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy `(batch,)` of logits whose margins `logit_y - logit_k` these are, `(batch, classes)`.

    Logits worst for the label differ from the negated margins by a constant, which cross entropy does not see.
    """
    return F.cross_entropy(-margins, labels, reduction="none")
