"""What may be searched, and the inputs it needs: search space, study specification, architectures, data sets.

Only `spaces.architectures` imports torch.
"""

from .config import TrialConfig
from .datasets import DATASETS, Dataset, MissingDataError, Split, load_dataset
from .errors import SpecError
from .load import DEFAULT_PRESET, PRESETS, load_spec
from .objectives import OBJECTIVES, Direction
from .rules import FAMILIES
from .sections import Ramp, Resources, Scheduler, Verification
from .space import Categorical, Constant, Float, Int, Parameter, SearchSpace
from .spec import StudySpec

__all__ = [
    "DATASETS",
    "DEFAULT_PRESET",
    "FAMILIES",
    "OBJECTIVES",
    "PRESETS",
    "Categorical",
    "Constant",
    "Dataset",
    "Direction",
    "Float",
    "Int",
    "MissingDataError",
    "Parameter",
    "Ramp",
    "Resources",
    "Scheduler",
    "SearchSpace",
    "SpecError",
    "Split",
    "StudySpec",
    "TrialConfig",
    "Verification",
    "load_dataset",
    "load_spec",
]
