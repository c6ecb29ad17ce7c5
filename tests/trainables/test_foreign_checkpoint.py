"""Checkpoints that somebody else made: what is no safetensors file is refused, and nothing of it is executed."""

import json
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sparsevlr.results import UnsafePath, paths
from sparsevlr.results.location import locate
from sparsevlr.trainables.checkpoint import Checkpoint
from sparsevlr.trainables.errors import CheckpointError

PLACE = "checkpoints/mine/rung-0"


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("content", ["pickle", "header"])
def test_anything_in_place_of_weights(tmp_path: Path, content: str) -> None:
    mark = tmp_path / "mark"
    data = pickle.dumps(Bomb(mark)) if content == "pickle" else (1 << 62).to_bytes(8, "little") + b"{}"
    names = (paths.WEIGHTS, paths.MASK, paths.OPTIMIZER)
    state = {"epoch": 1, "sha256": {name: sha256(data).hexdigest() for name in names}}
    folder = tmp_path / "study" / PLACE
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(data)
    (folder / paths.STATE).write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=f"checkpoint {PLACE} cannot be read"):
        Checkpoint.load(locate(tmp_path / "study"), PLACE)
    assert not mark.exists()


def test_a_checkpoint_behind_a_link_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "rung-0").mkdir(parents=True)
    (tmp_path / "study" / "checkpoints").mkdir(parents=True)
    (tmp_path / "study" / "checkpoints" / "mine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePath, match="leads outside its study"):
        Checkpoint.load(locate(tmp_path / "study"), PLACE)
