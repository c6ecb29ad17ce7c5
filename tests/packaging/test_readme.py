"""What README and guide say is what the program does."""

import re
from pathlib import Path

from typer.main import get_command

from sparsevlr.search.cli import app
from sparsevlr.spaces import PRESETS, StudySpec, load_spec

ROOT = Path(__file__).parents[2]
README, GUIDE = (ROOT / "README.md").read_text(), (ROOT / "docs" / "guide.md").read_text()


def test_the_number_of_trials_is_that_of_the_preset() -> None:
    assert f"searches {load_spec('digits').trials} trials" in README


def test_every_command_and_preset_is_named() -> None:
    for command in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"sparsevlr {command}" in README
    for preset in PRESETS:
        assert f"`{preset}`" in README


def test_every_key_of_a_study_is_in_the_guide() -> None:
    for key in StudySpec.model_fields:
        assert key in ("name", "description") or f"`{key}" in GUIDE, key


def test_relative_links_lead_somewhere() -> None:
    for page, folder in ((README, ROOT), (GUIDE, ROOT / "docs")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page):
            assert (folder / target).exists(), target
