import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevlr.results import Record, StudyError, WhereError
from sparsevlr.results.record import canonical_json, to_table
from sparsevlr.results.where import filter_rows, parse

CONFIGS = [
    {"score": "magnitude", "loss.kappa_end": 0.5, "architecture": "mlp", "architecture.hidden": [64, 64]},
    {"score": "random", "loss.kappa_end": 0, "schedule.at": 0.2, "flag": True},
    {"score": "it's", "mixed": 3},
    {"score": "magnitude", "mixed": "three", "flag": False},
]
TABLE = to_table(
    Record(
        event="report",
        trial_id=f"t{i}",
        rung=i,
        split="validation",
        config=canonical_json(config),
        sparsity=[0.5, 0.9, 0.95, float("nan")][i],
        verified_accuracy=[0.8, None, 0.6, 0.4][i],
        macs=[10**18 + 1, 5, 7, None][i],
        state="completed" if i % 2 else "stopped",
    )
    for i, config in enumerate(CONFIGS)
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("sparsity >= 0.9", [1, 2]),
        ("sparsity>=90%", [1, 2]),
        ("0.9 <= sparsity", [1, 2]),
        ("0.9 > sparsity", [0]),
        ("sparsity = .95", [2]),
        ("sparsity == 9.5e-1", [2]),
        ("sparsity != 0.9", [0, 2]),
        ("sparsity <> 0.9", [0, 2]),
        ("macs = 1000000000000000001", [0]),
        ("macs < 5.5", [1]),
        ("macs > -1", [0, 1, 2]),
        ("trial_id = 't1'", [1]),
        ('trial_id = "t1"', [1]),
        ("state = 'completed' and sparsity > 0.1", [1]),
        ("state in ('completed', 'failed')", [1, 3]),
        ("state not in ('completed')", [0, 2]),
        ("rung in (0, 2.0, 7)", [0, 2]),
        ("not sparsity > 0.9", [0, 1]),
        ("NOT (sparsity > 0.9 OR rung = 0)", [1]),
        ("verified_accuracy is null", [1]),
        ("sparsity IS NULL", [3]),
        ("verified_accuracy is not null", [0, 2, 3]),
        ("verified_accuracy > 0.5 or rung = 1", [0, 1, 2]),
        ("not (verified_accuracy > 0.5 and rung < 9)", [3]),
        ("rung = 0 or rung = 1 and sparsity > 5", [0]),
        ("verified_accuracy < sparsity", [2]),
        ("config.score = 'magnitude'", [0, 3]),
        ("config.score = 'it''s'", [2]),
        ("config.score != 'magnitude'", [1, 2]),
        ("config.loss.kappa_end > 0.1", [0]),
        ("config.loss.kappa_end = 0", [1]),
        ("config.loss.kappa_end is null", [2, 3]),
        ("config.mixed = 3", [2]),
        ("config.mixed in (3, 'three')", [2, 3]),
        ("config.mixed not in (3)", [3]),
        ("config.flag = true", [1]),
        ("config.mixed = 3 and sparsity > 0.93", [2]),
        ("config.score = 'random' or sparsity > 0.93", [1, 2]),
        ("not (config.flag = true and sparsity > 0.8)", [0, 3]),
        ("not (config.flag = true or sparsity < 0.8)", []),
        ("sparsity > 2 and config.flag = true", []),
        ("config.flag != TRUE", [3]),
        ("config.architecture.hidden = '[64,64]'", [0]),
        ("sparsity > config.loss.kappa_end", [1]),
        ("config.loss.kappa_end < config.schedule.at", [1]),
    ],
)
def test_selects(text, rows):
    assert filter_rows(TABLE, text)["rung"].to_pylist() == rows


def test_no_filter_keeps_everything_and_no_rows_are_no_trouble():
    assert filter_rows(TABLE, None) is TABLE
    assert len(filter_rows(TABLE.slice(0, 0), "config.anything = 1 and sparsity > 0")) == 0


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 1, "found nothing"),
        ("   ", 1, "found nothing"),
        ("sparsty > 0.9", 1, "there is no column 'sparsty'; did you mean sparsity?"),
        ("sparsity >", 11, "expected a column or a value, found the end"),
        ("sparsity 0.9", 10, "expected a comparison (= != < <= > >= in, is null), found '0.9'"),
        ("sparsity > 0.9 verified_accuracy", 16, "expected 'and', 'or' or the end"),
        ("(sparsity > 0.9", 16, "expected ')' for the '(' at position 1, found the end"),
        ("sparsity > 0.9)", 15, "expected 'and', 'or' or the end, found ')'"),
        ("0.5 < sparsity < 0.9", 16, "comparisons do not chain"),
        ("1 = 1", 1, "found two values"),
        ("sparsity > 'high'", 12, "expected a number for sparsity, found \"'high'\""),
        ("state = 3", 9, "expected text in quotes for state, found '3'"),
        ("state = completed", 9, "or text in quotes: 'completed'"),
        ("state = 'complete'", 9, "state is one of pending, running, paused, stopped, completed, failed"),
        ("'done' = state", 1, "state is one of"),
        ("state = sparsity", 1, "cannot be compared"),
        ("sparsity = true", 12, "expected a number"),
        ("sparsity = null", 12, "write 'is null'"),
        ("sparsity is 3", 13, "expected 'null'"),
        ("sparsity is 'null'", 13, "expected 'null'"),
        ("sparsity in 3", 13, "expected '('"),
        ("sparsity in ()", 14, "expected a column or a value, found ')'"),
        ("rung in (1, sparsity)", 13, "expected a value"),
        ("rung in (1 2)", 12, "expected ',' or ')'"),
        ("0.9 in (1)", 5, "expected a comparison"),
        ("trial_id = 'a", 12, "text without its closing quote"),
        ("sparsity > 0.9 && rung = 1", 16, "no column, number, text or comparison"),
        ("sparsity > 12abc", 12, "no column, number, text or comparison"),
        ("sparsity > 1\n; drop", 14, "no column, number"),
        ("and", 1, "expected a column or a value, found 'and'"),
        ("__import__('os')", 1, "there is no column '__import__'"),
        ("state.__class__ = 'x'", 1, "there is no column 'state.__class__'"),
        ("(" * 101 + "rung = 1" + ")" * 101, 101, "nested deeper than 100 levels"),
        ("not " * 50_000 + "rung = 1", 401, "nested deeper"),
    ],
)
def test_errors_are_one_line_with_the_position(text, position, message):
    with pytest.raises(WhereError) as error:
        parse(text)
    assert str(error.value).startswith(f"filter, position {position}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_config_name_is_told():
    with pytest.raises(WhereError, match=r"no trial has config\.loss\.kapa_end; did you mean loss\.kappa_end\?"):
        filter_rows(TABLE, "config.loss.kapa_end > 0.1 or rung = 1")
    with pytest.raises(WhereError, match=r"no trial has config\.nothing"):
        filter_rows(TABLE, "sparsity > 2 and config.nothing = 1")


@given(st.text(alphabet="sparity config.'\"()=<>!,0159%andotrulei\n\t\\;", max_size=60))
def test_any_text_filters_or_says_why(text):
    message = ""
    try:
        filter_rows(TABLE, text)
    except StudyError as error:
        message = str(error)
    assert "\n" not in message


@given(st.text(max_size=20))
def test_quoting_reaches_every_text(text):
    table = pa.table({"error": pa.array([text, text + "x", None])})
    quoted = text.replace("'", "''")
    assert parse(f"error = '{quoted}'").mask(table).to_pylist() == [True, False, False]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.none() | st.integers(0, 2) | st.text("xy", max_size=1)))
def test_missing_values_pass_neither_a_test_nor_its_negation(config):
    table = pa.table({"config": pa.array([json.dumps(config), '{"a":0,"b":0,"c":0}'])})
    for name in "abc":
        both = parse(f"config.{name} = 1 or not config.{name} = 1").mask(table)[0].as_py()
        assert both == isinstance(config.get(name), int)
