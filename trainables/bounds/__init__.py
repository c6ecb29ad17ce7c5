"""Bounds of networks over boxes and balls: intervals, and backward linear bounds from the margins."""

from .graph import Add, Graph, Node, UnsupportedLayer, trace
from .interval import ReLUStates, interval_bounds, relu_states, unstable_relu_fraction
from .linear import (
    as_intervals,
    backward_combination,
    backward_margins,
    crown_bounds,
    crown_ibp_bounds,
    crown_ibp_margins,
    crown_margins,
)
from .magnitude import TOLERANCE, magnitudes
from .margins import margin_bounds, margin_lower_bounds
from .piecewise import PiecewiseLinear, TooManyVariables, reduce_margins
from .region import NORMS, Ball, Box, Norm, Region, input_box, input_region
from .relaxation import Interval
from .relu import interval_relu
from .slopes import optimised_margins
from .tightness import Widths, widths_before_relus
from .training import forward, interval_boxes, natural_and_interval, natural_pass, settle

__all__ = [
    "NORMS",
    "TOLERANCE",
    "Add",
    "Ball",
    "Box",
    "Graph",
    "Interval",
    "Node",
    "Norm",
    "PiecewiseLinear",
    "ReLUStates",
    "Region",
    "TooManyVariables",
    "UnsupportedLayer",
    "Widths",
    "as_intervals",
    "backward_combination",
    "backward_margins",
    "crown_bounds",
    "crown_ibp_bounds",
    "crown_ibp_margins",
    "crown_margins",
    "forward",
    "input_box",
    "input_region",
    "interval_bounds",
    "interval_boxes",
    "interval_relu",
    "magnitudes",
    "margin_bounds",
    "margin_lower_bounds",
    "natural_and_interval",
    "natural_pass",
    "optimised_margins",
    "reduce_margins",
    "relu_states",
    "settle",
    "trace",
    "unstable_relu_fraction",
    "widths_before_relus",
]
