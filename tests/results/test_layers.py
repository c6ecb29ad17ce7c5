import json

import pytest

from sparsevlr.results import QueryError, open_study
from sparsevlr.results.layers import LAYER_SCHEMA, layer_table

MEASURES = {
    "0": {"live_units": 0.5, "gradient_norm": 0.25, "pruned_gradient_norm": None},
    "1": {"unstable_relu_fraction": 0.125, "dead_relu_fraction": 0, "bound_tightness": 1.0, "from a later version": 7},
    "2": {"live_units": 1.0, "gradient_norm": 2.0, "pruned_gradient_norm": 3.0},
}
FILLED = {"layer_measures": json.dumps(MEASURES), "layer_densities": '{"0":0.1,"2":0.2}'}


@pytest.fixture
def study(store, make_trial, make_report):
    store.append(make_trial("a", 0.5, 0.8, "stopped", epoch=3, **FILLED))
    store.append(make_report("a", 0, "test", **FILLED))
    store.append(make_trial("b", 0.6, 0.7, layer_densities='{"0":0.3}'))
    store.append(make_trial("c", 0.7, 0.6))
    return open_study(store.uri)


def test_one_row_per_report_and_layer_in_the_order_of_the_network(study):
    table = study.layers()
    assert table.schema == LAYER_SCHEMA
    first, second, third, old = table.to_pylist()
    assert [row["layer"] for row in (first, second, third, old)] == ["0", "1", "2", "0"]
    assert {name: first[name] for name in ("trial_id", "state", "rung", "epoch")} == {
        "trial_id": "a",
        "state": "stopped",
        "rung": 0,
        "epoch": 3,
    }
    assert (first["density"], first["live_units"], first["gradient_norm"]) == (0.1, 0.5, 0.25)
    assert (first["pruned_gradient_norm"], first["bound_tightness"]) == (None, None)
    assert (second["density"], second["unstable_relu_fraction"], second["dead_relu_fraction"]) == (None, 0.125, 0.0)
    assert third["density"] == 0.2
    assert (old["trial_id"], old["density"], old["gradient_norm"]) == ("b", 0.3, None)


def test_filters_are_those_of_reports(study):
    assert study.layers("sparsity >= 0.6")["trial_id"].to_pylist() == ["b"]
    assert len(study.layers("state = 'running'")) == 0
    assert study.layers("state = 'running'").schema == LAYER_SCHEMA


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("layer_measures", "[]"),
        ("layer_measures", "{"),
        ("layer_measures", '{"0": 3}'),
        ("layer_measures", '{"0": {"gradient_norm": "x"}}'),
        ("layer_densities", '{"0": true}'),
        ("layer_densities", '{"0": [1]}'),
    ],
)
def test_what_somebody_else_wrote_is_named(study, column, text):
    reports = study.reports()
    spoilt = reports.set_column(reports.column_names.index(column), column, [[text] * len(reports)])
    with pytest.raises(QueryError, match="trial a, rung 0, must hold numbers by layer; got"):
        layer_table(spoilt)
