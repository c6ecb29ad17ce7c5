"""`spaces` and `results` import no sibling, so that each has its own table of objectives; they must say the same."""

from sparsevlr.results.record import DIRECTIONS
from sparsevlr.spaces import OBJECTIVES


def test_every_objective_of_a_spec_is_a_column_with_the_same_direction() -> None:
    words = {"maximize": "max", "minimize": "min"}
    assert {name: words[direction] for name, direction in OBJECTIVES.items()}.items() <= DIRECTIONS.items()
