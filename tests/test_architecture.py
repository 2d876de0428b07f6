"""The structure of the project: imports go downwards only, scripts shadow nothing, every configuration builds."""

import ast
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurochorus.data_shards.recipe import read_recipe
from neurochorus.data_shards.settings import read_settings
from neurochorus.pretrain.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("data_shards", "models", "pretrain", "launch")  # each may import itself and those before it


def imported_layers(source: str) -> Iterator[tuple[int, str]]:
    """(line, layer) of every import of one of our packages."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import; write neurochorus.… in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "neurochorus" and len(parts) > 1:
                yield node.lineno, parts[1]


def upward_imports(layer: str, source: str) -> list[str]:
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    return [f"line {line} imports {other}" for line, other in imported_layers(source) if other not in allowed]


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_downwards(layer: str) -> None:
    found = {
        str(file.relative_to(ROOT)): upward_imports(layer, file.read_text()) for file in (ROOT / layer).rglob("*.py")
    }
    assert {file: lines for file, lines in found.items() if lines} == {}
    assert len(found) > 3


def test_an_import_that_goes_up_would_be_seen() -> None:
    source = "def f():\n    from neurochorus.pretrain import config\n"
    assert upward_imports("models", source) == ["line 2 imports pretrain"]
    assert upward_imports("launch", source) == []


def shadowed(names: set[str]) -> set[str]:
    """Those of `names` that are also standard-library modules or top-level packages of something installed."""
    installed = set(importlib.metadata.packages_distributions())
    dependencies = {
        "torch",
        "deepspeed",
        "webdataset",
        "numpy",
        "wandb",
        "safetensors",
        "pytest",
        "scipy",
        "rich",
        "yaml",
    }
    return names & (set(sys.stdlib_module_names) | installed | dependencies | set(LAYERS) - {"pretrain"})


def test_no_script_shadows_a_module() -> None:
    """The folder of a script comes first on sys.path, so launch/inspect.py would replace the standard library's."""
    assert shadowed({file.stem for file in (ROOT / "launch").glob("*.py")} - {"__init__"}) == set()
    assert shadowed({"inspect", "select", "wandb", "pretrain"}) == {"inspect", "select", "wandb"}


def test_files_stay_readable() -> None:
    long = {
        str(file.relative_to(ROOT)): lines
        for layer in LAYERS
        for file in (ROOT / layer).rglob("*.py")
        if (lines := len(file.read_text().splitlines())) > 400
    }
    assert long == {}


def test_the_packages_of_the_wheel_are_the_folders() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for layer in LAYERS:
        for folder in [ROOT / layer, *(path.parent for path in (ROOT / layer).rglob("__init__.py"))]:
            name = "neurochorus." + ".".join(folder.relative_to(ROOT).parts)
            assert f'"{name}"' in text, f"pyproject.toml does not list {name}"


CONFIGS = ROOT / "launch" / "configs"
RUNS = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("presets/*.yaml"), *CONFIGS.glob("*/base.yaml")])


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_every_configuration_builds(file: Path) -> None:
    assert read_settings(RunConfig, file).run.dir


@pytest.mark.parametrize("file", sorted((ROOT / "launch/configs/recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_builds(file: Path) -> None:
    assert read_recipe(file, []).name
