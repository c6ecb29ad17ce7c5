"""The wheel, installed where nothing of the checkout is in reach."""

import ast
import json
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

from sparsevlr.search.shipping import build_wheel

ROOT = Path(__file__).parents[2]
FOLDERS = ("spaces", "trainables", "results", "search")
FILES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources that git would check out, so that what lies about here cannot help."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            *FOLDERS,
            "pyproject.toml",
            "README.md",
            "LICENSE",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.split():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    built = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(built), str(source)], check=True)
    return next(built.glob("*.whl"))


def test_every_module_preset_and_marker_is_in_it(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml") or path.name == "py.typed":
                assert f"sparsevlr/{path.relative_to(ROOT).as_posix()}" in packed


def test_what_workers_of_a_cluster_are_given_is_the_same_package_without_requirements(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = build_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as built, zipfile.ZipFile(shipped) as mine:
        modules = [name for name in built.namelist() if ".dist-info/" not in name]
        assert sorted(name for name in mine.namelist() if ".dist-info/" not in name) == sorted(modules)
        assert all(mine.read(name) == built.read(name) for name in modules)
        metadata = Parser().parsestr(mine.read("sparsevlr-0.1.0.dist-info/METADATA").decode())
        assert "Requires-Dist" not in metadata
    # Ray knows a wheel by its name alone.
    first = shipped.read_bytes()
    assert build_wheel(tmp_path) == shipped
    assert shipped.read_bytes() == first
    monkeypatch.setattr("sparsevlr.search.shipping.PARTS", ("spaces",))
    assert build_wheel(tmp_path).name != shipped.name


def test_every_import_is_a_declared_dependency(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        requires = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    declared = {re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-") for requirement in requires}
    # Comes from outside the dependencies on purpose (see pyproject.toml), and in one module only.
    declared.add("auto-lirpa")
    providers = metadata.packages_distributions()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for module in imported(path):
                if module not in sys.stdlib_module_names:
                    names = {name.lower().replace("_", "-") for name in providers.get(module, [module])}
                    assert names & declared, f"{path.name} imports {module}, which no dependency declares"


def imported(path: Path) -> set[str]:
    """Top-level names that a module imports absolutely."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_installed_in_a_clean_environment_it_runs_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    # Its dependencies weigh two gigabytes: they are lent from here, without the checkout, which an import hook of a
    # .pth file serves; Python reads no .pth file of a folder that is only lent.
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = subprocess.run(
        [python, "-c", "import sparsevlr.search as s; print(s.__file__)"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(site)
    checked = subprocess.run(
        [tmp_path / "env" / "bin" / "sparsevlr", "check", "--json"],
        cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")
    rows = {row["what"]: row for row in json.loads(checked.stdout)}
    assert rows["sparsevlr"]["there"] == "yes"
    assert rows["data digits"]["there"] == "yes"
