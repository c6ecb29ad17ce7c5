"""What may be searched, and the inputs it needs: search space, study specification, architectures, data sets.

Only `spaces.architectures` imports torch.
"""

from .changes import MAY_CHANGE, check_changes
from .config import TrialConfig
from .datasets import DATASETS, Dataset, MissingDataError, Split, load_dataset
from .errors import SpecError
from .load import DEFAULT_PRESET, PRESETS, change_spec, load_spec
from .objectives import OBJECTIVES, Direction
from .rules import FAMILIES
from .sections import Limits, Ramp, Resources, Scheduler, Verification
from .space import Categorical, Constant, Float, Int, Parameter, SearchSpace
from .spec import StudySpec

__all__ = [
    "DATASETS",
    "DEFAULT_PRESET",
    "FAMILIES",
    "MAY_CHANGE",
    "OBJECTIVES",
    "PRESETS",
    "Categorical",
    "Constant",
    "Dataset",
    "Direction",
    "Float",
    "Int",
    "Limits",
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
    "change_spec",
    "check_changes",
    "load_dataset",
    "load_spec",
]
