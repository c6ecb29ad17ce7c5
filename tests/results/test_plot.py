import numpy as np
import pytest
from matplotlib import pyplot

from sparsevlr.results import QueryError, Record, StorageError, open_study
from sparsevlr.results.intervals import wilson_interval
from sparsevlr.results.plot import front_figure, save_figure


@pytest.fixture
def study(store, make_trial, make_report):
    store.append(make_trial("a", 0.0, 0.9, epsilon=0.05, macs=900, natural_accuracy=0.95))
    store.append(make_trial("b", 0.9, 0.8, epsilon=0.05, macs=90, natural_accuracy=0.9))
    store.append(make_trial("c", 0.5, 0.7, epsilon=0.05, macs=9000, natural_accuracy=0.7))
    store.append(make_trial("d", 0.99, 0.6, "stopped", epsilon=0.02))
    store.append([Record(event="proposed", trial_id="e"), make_report("f", sparsity=1.0, verified_accuracy=0.1)])
    store.append(make_report("a", 0, "test", verified_accuracy=0.85, samples=50, epsilon=0.05))
    return open_study(store.uri)


def points(axes):
    return {c.get_label(): np.asarray(c.get_offsets()).tolist() for c in axes.collections if c.get_label()[0] != "_"}


def test_the_front_is_drawn_where_it_is(study):
    (axes,) = front_figure(study.trials(), study.pareto_front(), study.objectives, title="small").axes
    drawn = points(axes)
    assert drawn["Pareto front, 95 % interval"] == [pytest.approx([0, 90]), pytest.approx([1, 80])]
    assert drawn["completed, dominated"] == [pytest.approx([np.log10(2), 70])]
    assert drawn["stopped early"] == [pytest.approx([2, 60])]
    assert drawn["running or paused"] == [pytest.approx([4, 10])]
    ticks = dict(zip([tick.get_text() for tick in axes.get_xticklabels()], axes.get_xticks(), strict=True))
    assert ticks["0"] == pytest.approx(0)
    assert ticks["90"] == pytest.approx(1)
    assert ticks["99"] == pytest.approx(2)
    assert axes.get_xlabel() == "sparsity (share of all weights removed, %), more is better"
    assert axes.get_title(loc="left") == "small: Pareto front"
    assert axes.texts[0].get_text() == "epsilon 0.05   ·   100 validation samples"
    (bars,) = [c for c in axes.collections if len(c.get_paths()) == 2 and len(c.get_paths()[0].vertices) == 2]
    low, high = wilson_interval(90, 100)
    assert bars.get_paths()[0].vertices[:, 1] == pytest.approx([100 * low, 100 * high])


def test_the_staircase_says_what_is_attained(study):
    (axes,) = front_figure(study.trials(), study.pareto_front(), study.objectives).axes
    (line,) = [line for line in axes.lines if len(line.get_xdata()) == 3]
    # Up to sparsity 0 the dense trial's 90 %, from there to 90 % sparsity the sparse trial's 80 %.
    assert line.get_drawstyle() == "steps-pre"
    assert line.get_ydata().tolist() == pytest.approx([90, 90, 80])
    objectives = ("macs", "verified_accuracy")
    (axes,) = front_figure(study.trials(), study.pareto_front(objectives), objectives).axes
    (line,) = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert line.get_drawstyle() == "steps-post"
    assert line.get_ydata().tolist() == pytest.approx([80, 90, 90])
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel().endswith("less is better")


@pytest.mark.parametrize(
    ("objectives", "x", "y"),
    [
        (["verified_accuracy"], "sparsity", "verified accuracy"),
        (["sparsity"], "sparsity", "verified accuracy"),
        (["verified_accuracy", "sparsity"], "sparsity", "verified accuracy"),
        (["natural_accuracy", "verified_accuracy", "macs"], "natural accuracy", "verified accuracy"),
        (["sparsity", "size_bytes"], "sparsity", "size (bytes)"),
    ],
)
def test_any_objectives_have_labelled_axes(study, tmp_path, objectives, x, y):
    (axes,) = front_figure(study.trials(), study.pareto_front(objectives), objectives).axes
    assert axes.get_xlabel().startswith(x)
    assert axes.get_ylabel().startswith(y)
    assert study.plot(tmp_path / "p.png", objectives).stat().st_size > 5000


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_formats_follow_the_ending(study, tmp_path, ending, magic):
    path = study.plot(tmp_path / "new" / f"front.{ending}")
    assert path.read_bytes().startswith(magic)
    assert pyplot.get_fignums() == []


def test_test_split_shows_the_front_alone(study, tmp_path):
    front = study.pareto_front(split="test")
    (axes,) = front_figure(front.slice(0, 0), front, study.objectives, split="test").axes
    assert points(axes) == {"Pareto front, 95 % interval": [pytest.approx([0, 85])]}
    assert "50 test samples" in axes.texts[0].get_text()
    assert study.plot(tmp_path / "t.svg", split="test").exists()


def test_a_study_without_results_has_a_picture(store, tmp_path):
    study = open_study(store.uri)
    (axes,) = front_figure(study.trials(), study.pareto_front(), study.objectives).axes
    assert "no completed trial yet" in [text.get_text() for text in axes.texts]
    assert study.plot(tmp_path / "empty.png").exists()


def test_what_cannot_be_drawn_is_told(study, tmp_path):
    with pytest.raises(QueryError, match=r"ends in \.png, \.svg, \.pdf; got 'front\.exe'"):
        study.plot(tmp_path / "front.exe")
    with pytest.raises(QueryError, match="'epoch' is no objective"):
        front_figure(study.trials(), study.pareto_front(), ["epoch"])
    (tmp_path / "file").write_text("")
    figure = front_figure(study.trials(), study.pareto_front(), study.objectives)
    with pytest.raises(StorageError, match="cannot write the plot"):
        save_figure(figure, tmp_path / "file" / "front.png")
