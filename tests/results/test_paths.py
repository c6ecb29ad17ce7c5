import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevlr.results import UnsafePath, paths
from sparsevlr.results.untrusted import inside

BAD = ["", ".", "..", "a/b", "../a", "/a", "a\\b", ".hidden", "a\0", "a\n", "a b", "a" * 129, "é"]


@pytest.mark.parametrize("name", BAD)
def test_unsafe_names_are_refused(name):
    for check in (paths.check_study_name, paths.check_trial_id, paths.plot_path, paths.checkpoint_path):
        with pytest.raises(UnsafePath):
            check(name)
    if name != "a/b":
        with pytest.raises(UnsafePath):
            paths.checkpoint_path("trial", name)


@pytest.mark.parametrize(
    "path",
    ["checkpoints", "checkpoints/", "/checkpoints/a", "checkpoints/../study.json", "checkpoints/a/../../b", "parts/a",
     "checkpoints//a", "C:/checkpoints/a"],
)  # fmt: skip
def test_unsafe_checkpoints_are_refused(path):
    with pytest.raises(UnsafePath):
        paths.check_checkpoint(path)


@pytest.mark.parametrize(
    "path",
    ["stages", "stages/", "stages/0123456789abcdef", "stages/0123456789abcdef/", "stages/0123456789ABCDEF/epoch-1",
     "stages/0123456789abcdef/epoch-1/", "stages/0123456789abcdef/epoch-01", "stages/0123456789abcdef/epoch--1",
     "stages/0123456789abcdef/../study.json", "stages/../checkpoints/a", "stages//epoch-1", "/stages/a/epoch-1",
     "stages/0123456789abcdef/epoch-1\n", "stages/0123456789abcdef/epoch-\N{ARABIC-INDIC DIGIT ONE}"],
)  # fmt: skip
def test_unsafe_stages_are_refused(path):
    with pytest.raises(UnsafePath):
        paths.check_saved(path)


def test_a_stage_is_no_checkpoint_of_a_record():
    path = paths.stage_path("0123456789abcdef", 12)
    assert path == paths.check_saved(path) == "stages/0123456789abcdef/epoch-12"
    assert paths.check_saved("checkpoints/a/rung-0") == "checkpoints/a/rung-0"
    with pytest.raises(UnsafePath):
        paths.check_checkpoint(path)
    for key in BAD:
        with pytest.raises(UnsafePath):
            paths.stage_path(key, 1)


@given(st.text(max_size=40))
def test_whatever_passes_stays_inside(tmp_path_factory, text):
    root = tmp_path_factory.getbasetemp()
    try:
        target = inside(root, f"{paths.check_saved(text)}/{paths.MASK}")
    except UnsafePath:
        return
    assert target.is_relative_to(root / "checkpoints") or target.is_relative_to(root / "stages")


def test_a_symbolic_link_out_of_the_study_is_refused(tmp_path):
    study = tmp_path / "study"
    (study / "checkpoints").mkdir(parents=True)
    (study / "checkpoints" / "t1").symlink_to(tmp_path)
    assert paths.checkpoint_path("t2", "rung-3") == "checkpoints/t2/rung-3"
    assert inside(study, "checkpoints/t2/rung-3/a") == (study / "checkpoints/t2/rung-3/a").resolve()
    with pytest.raises(UnsafePath, match="symbolic link"):
        inside(study, "checkpoints/t1/rung-0/secret")


def test_file_names_say_what_they_cover():
    session = paths.session_name(12, "0123abcd")
    assert paths.parse_journal(paths.journal_file(session, 40)) == (session, 40)
    assert paths.parse_part(paths.part_file(session, 40, 99)) == (session, 40, 99)
    assert paths.parse_part(".x.tmp") is None
    assert paths.parse_part(paths.part_file(session, 0, 1) + ".tmp") is None
    assert paths.parse_journal("notes.txt") is None
    assert paths.session_order(paths.session_name(2_000_000, "0" * 8)) > paths.session_order(session)
