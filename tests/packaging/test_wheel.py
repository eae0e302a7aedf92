"""The wheel: what it holds, what it asks for, and planning from it where there is no torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import holmes

ROOT = Path(__file__).parents[2]
CORE = {"numpy", "pydantic", "pyroute2", "PyYAML", "rich", "scipy", "typer"}
EXTRAS = {"train", "hf", "slurm", "tensorboard", "dev", "docs"}


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source))
    (built,) = folder.glob("holmes-*.whl")
    return built


def test_it_holds_the_package_and_its_data(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src" / "holmes"
    wanted = {
        f"holmes/{path.relative_to(package)}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= inside
    assert {name.split("/")[0] for name in inside} == {
        "holmes",
        f"holmes-{holmes.__version__}.dist-info",
    }


def test_the_core_asks_for_no_torch(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
    metadata = HeaderParser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == holmes.__version__
    assert set(metadata.get_all("Provides-Extra") or ()) >= EXTRAS
    asked = metadata.get_all("Requires-Dist") or []
    core = [line for line in asked if "extra ==" not in line]
    assert {line.split(">")[0].split(";")[0].strip() for line in core} == CORE


def test_it_plans_where_there_is_no_torch(wheel: Path, tmp_path: Path) -> None:
    """The installed tree, with the dependencies of this environment except torch."""
    target = tmp_path / "site"
    pip("install", "--no-deps", "--no-compile", "--target", str(target), str(wheel))
    program = f"""
import sys
sys.path.insert(0, {str(target)!r})
sys.modules["torch"] = None
sys.argv = "holmes plan --site demo --model gpt-5m --global-batch 16 --json".split()
import holmes
assert holmes.__file__.startswith({str(target)!r}), holmes.__file__
from holmes.cli.main import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert '"step_seconds"' in done.stdout
