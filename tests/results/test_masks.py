import json
from hashlib import sha256

import numpy as np
import pytest
from safetensors import numpy as tensors

from sparsevlr.results import QueryError, Record, StorageError, UnsafePath, open_study
from sparsevlr.results.masks import OVERLAP_SCHEMA, read_mask
from sparsevlr.results.origins import Origins

A = {"2": [[1, 1, 0, 0], [0, 0, 0, 0]], "10": [[1, 1]]}
B = {"2": [[1, 0, 1, 0], [0, 0, 0, 0]], "10": [[1, 0]]}


def save(store, path, masks):
    """A checkpoint as trainables write it, less what masks do not need."""
    data = tensors.save({f"{layer}.weight": np.array(mask, bool) for layer, mask in masks.items()})
    store.location.replace(f"{path}/mask.safetensors", data)
    state = {"sha256": {"mask.safetensors": sha256(data).hexdigest()}}
    store.location.replace(f"{path}/state.json", json.dumps(state).encode())


@pytest.fixture
def add(store, make_trial):
    def add(trial_id, masks, state="completed", seed=None, **identity):
        path = f"checkpoints/{trial_id}/rung-0"
        save(store, path, masks)
        proposed, report, decision = make_trial(trial_id, 0.5, 0.5, state, checkpoint=path)
        fields = proposed.to_dict() | {"seed": seed} | {"parent": identity.get("parent")}
        report = report.to_dict() | {"dense_stage": identity.get("dense_stage")}
        store.append([Record(**fields), Record(**report), decision])

    return add


def test_pairs_by_layer_and_as_a_whole(store, add, make_trial):
    add("a", A)
    add("b", B)
    add("stopped", A, "stopped")
    add("paused", A, "paused")
    store.append(make_trial("unsaved", 0.5, 0.5))
    table = open_study(store.uri).mask_overlap()
    assert table.schema == OVERLAP_SCHEMA
    first, second, whole = table.to_pylist()
    assert [(row["trial_a"], row["trial_b"], row["layer"]) for row in (first, second, whole)] == [
        ("a", "b", "2"),
        ("a", "b", "10"),
        ("a", "b", None),
    ]
    assert [first[name] for name in ("weights", "kept_a", "kept_b", "shared")] == [8, 2, 2, 1]
    assert (first["by_chance"], first["jaccard"], first["overlap"]) == (0.5, pytest.approx(1 / 3), 0.5)
    assert [second[name] for name in ("weights", "kept_a", "kept_b", "shared")] == [2, 2, 1, 1]
    assert (second["agreement"], second["deviations"]) == (None, None)
    assert [whole[name] for name in ("weights", "kept_a", "kept_b", "shared")] == [10, 4, 3, 2]
    assert whole["by_chance"] == 1.5
    assert whole["agreement"] == pytest.approx(0.5 / 1.5)


def test_only_networks_of_equal_layers_and_shapes_are_compared(store, add):
    add("a", A)
    add("b", {"2": [[1, 1]], "10": [[1, 1]]})
    add("c", {"2": A["2"]})
    study = open_study(store.uri)
    assert len(study.mask_overlap()) == 0
    with pytest.raises(QueryError, match=r"of one architecture, but a and b differ .* choose one with where"):
        study.kept_counts()
    assert study.kept_counts("trial_id = 'b'").trials == ("b",)


def test_how_many_keep_each_weight(store, add):
    for number, masks in enumerate((A, B, A)):
        add(f"t{number}", masks)
    add("stopped", A, "stopped")
    counts = open_study(store.uri).kept_counts()
    assert counts.trials == ("t0", "t1", "t2")
    assert counts.counts["2"].tolist() == [[3, 2, 1, 0], [0, 0, 0, 0]]
    assert counts.counts["10"].tolist() == [[3, 2]]
    with pytest.raises(QueryError, match="no completed trial with a mask"):
        open_study(store.uri).kept_counts("sparsity > 0.9")


def test_what_is_not_independent_is_said(store, add):
    add("a", A, seed=1, dense_stage="5" * 16)
    add("b", A, seed=2, dense_stage="5" * 16)
    add("c", A, seed=3, parent="a")
    add("d", A, seed=4, parent="a")
    add("e", A, seed=5)
    add("f", A, seed=5)
    add("g", A, seed=6)
    whole = [row for row in open_study(store.uri).mask_overlap().to_pylist() if row["layer"] is None]
    common = {row["trial_a"] + row["trial_b"]: row["common"] for row in whole}
    assert len(common) == 21
    assert {pair for pair, why in common.items() if why == "lineage"} == {"ac", "ad", "cd"}
    # c and d descend from a, which has its dense stage in common with b.
    assert {pair for pair, why in common.items() if why == "dense stage"} == {"ab", "bc", "bd"}
    assert {pair for pair, why in common.items() if why == "seed"} == {"ef"}


def test_a_parent_that_the_study_does_not_know_ends_the_line(store, add):
    add("a", A, parent="gone")
    add("b", A, parent="gone")
    origins = Origins(open_study(store.uri).trials())
    assert origins.line("a") == ["a"]
    assert origins.common("a", "b") is None


def test_a_filter_chooses_trials_but_lines_go_on_outside_it(store, add):
    add("a", A)
    add("b", A, parent="a")
    add("c", A, parent="a")
    table = open_study(store.uri).mask_overlap("parent is not null")
    assert set(table["common"].to_pylist()) == {"lineage"}


def test_a_damaged_checkpoint_is_named(store, add):
    add("a", A)
    add("b", B)
    study = open_study(store.uri)
    path = "checkpoints/b/rung-0"
    store.location.replace(f"{path}/mask.safetensors", b"other bytes")
    with pytest.raises(StorageError, match=f"{path} cannot be read: mask.safetensors is not the file"):
        study.mask_overlap()
    data = b"no safetensors"
    store.location.replace(f"{path}/mask.safetensors", data)
    digest = sha256(data).hexdigest()
    store.location.replace(f"{path}/state.json", json.dumps({"sha256": {"mask.safetensors": digest}}).encode())
    with pytest.raises(StorageError, match=f"{path} cannot be read: mask.safetensors: "):
        study.kept_counts()
    for text in (b"[]", b"{", b'{"sha256": 1}'):
        store.location.replace(f"{path}/state.json", text)
        with pytest.raises(StorageError, match=f"{path} cannot be read: state.json"):
            study.mask_overlap()
    (store.location.local / path / "state.json").unlink()
    with pytest.raises(StorageError, match=f"{path} cannot be read: state.json: No such file"):
        study.mask_overlap()


def test_what_is_no_mask_is_refused(store):
    data = tensors.save({"0.weight": np.ones(3, np.float32)})
    path = "checkpoints/a/rung-0"
    store.location.replace(f"{path}/mask.safetensors", data)
    state = {"sha256": {"mask.safetensors": sha256(data).hexdigest()}}
    store.location.replace(f"{path}/state.json", json.dumps(state).encode())
    with pytest.raises(StorageError, match="must hold booleans"):
        read_mask(store.location, path)


def test_no_mask_is_read_outside_the_study(store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.location.local / "checkpoints").mkdir(exist_ok=True)
    (store.location.local / "checkpoints" / "a").symlink_to(outside)
    with pytest.raises(UnsafePath, match="symbolic link"):
        read_mask(store.location, "checkpoints/a")
    with pytest.raises(UnsafePath):
        read_mask(store.location, "checkpoints/../../outside")
