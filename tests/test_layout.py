"""The house keeps its shape: folders are packages, `http/` hides nothing, names say what they mean, nothing lies about unused.

Every test here is a trap that was met once (see docs/decisions and CONTRIBUTING.md) and cannot be seen by a linter.
"""

import ast
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from shutil import copyfile
from typing import Any

import pytest

from orderflow.schemas import catalog

ROOT = Path(__file__).resolve().parent.parent
SETUP: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPING: dict[str, str] = SETUP["tool"]["setuptools"]["package-dir"]
FOLDERS = tuple(MAPPING.values())

STDLIB_NAMES = {"client", "server", "cookies", "cookiejar"}
"""Modules of the stdlib's `http`: one of ours with that name would be taken for it by tools that see `http/` at the root."""
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
"""Names that say nothing about what is in the file."""
SHARED_RECORDS = Path("schemas/avro/common")
ORACLES: set[str] = set()
"""Modules that only tests import: what they compare the running system with."""
LEFT_BY_RUNS = {"__pycache__", "build", "dist", ".box", ".orderflow", ".venv", ".hypothesis", "htmlcov"}


def files_of_the_tree() -> list[Path]:
    """Every file that is or would be committed, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return sorted({Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()})


def modules() -> dict[str, Path]:
    """Every module of the packages by its imported name."""
    found = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(("orderflow", *file.relative_to(ROOT).with_suffix("").parts))
            found[name.removesuffix(".__init__")] = file
    return found


def imports(file: Path) -> Iterator[str]:
    """Everything a file imports; of `from a import b` both `a` and `a.b`, for `b` may be a module."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# -- folders and packages -----------------------------------------------------------------------------------------------------------
def test_http_is_no_package_of_its_own() -> None:
    assert not (ROOT / "http" / "__init__.py").exists(), "it would hide the stdlib's http from every program started at the root"


def test_http_has_no_module_named_like_one_of_the_stdlib() -> None:
    assert not {file.stem for file in (ROOT / "http").rglob("*.py")} & STDLIB_NAMES


@pytest.mark.parametrize("module", sorted(STDLIB_NAMES))
def test_the_stdlib_is_found_from_the_root(module: str) -> None:
    script = f"import sys; sys.path.insert(0, ''); import http.{module} as found; print(found.__file__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).is_relative_to(ROOT / "http")


def test_there_is_no_folder_that_would_hide_the_package() -> None:
    assert not (ROOT / "orderflow").exists()


def test_the_packages_are_the_folders_on_disk() -> None:
    """A folder that is not listed works in an editable install and is missing from the wheel."""
    on_disk = {".".join(("orderflow", *file.parent.relative_to(ROOT).parts)) for file in modules().values()}
    assert sorted(on_disk) == sorted(SETUP["tool"]["setuptools"]["packages"])


def test_every_package_but_http_has_a_docstring_of_its_own() -> None:
    """importlib.resources fails on an editable namespace package, so all but http/ have an __init__.py."""
    without = {name for name in SETUP["tool"]["setuptools"]["packages"] if name not in modules()}
    assert without == {"orderflow.http"}


def test_the_view_of_the_type_checker_is_the_mapping() -> None:
    view = {f"orderflow.{link.name}": link for link in (ROOT / ".typing" / "orderflow").iterdir()}
    assert sorted(view) == sorted(MAPPING)
    for name, link in view.items():
        assert link.is_symlink() and not link.readlink().is_absolute() and link.resolve() == ROOT / MAPPING[name]


def test_nothing_a_run_leaves_behind_is_in_the_tree() -> None:
    left = [str(file) for file in files_of_the_tree() if LEFT_BY_RUNS & set(file.parts) or file.suffix in (".pyc", ".so")]
    assert not left, "remove these from git and ignore them"


# -- modules ------------------------------------------------------------------------------------------------------------------------
def test_every_module_says_what_it_is_for() -> None:
    everywhere = [*modules().values(), *(ROOT / "tests").rglob("*.py")]
    assert [str(file.relative_to(ROOT)) for file in everywhere if not ast.get_docstring(ast.parse(file.read_text()))] == []


def test_names_say_something() -> None:
    silent = [
        str(file)
        for file in files_of_the_tree()
        if not file.is_relative_to(SHARED_RECORDS)
        and any(set(part.partition(".")[0].lower().replace("-", "_").split("_")) & EMPTY_NAMES for part in file.parts)
    ]
    assert silent == []


def test_no_module_is_dead() -> None:
    """Imported by another one, named in pyproject.toml, or a program of its own."""
    found = modules()
    imported = {name for module, file in found.items() for name in imports(file) if name != module}
    project = SETUP["project"]
    named = [*project["scripts"].values(), *(value for group in project["entry-points"].values() for value in group.values())]
    started = {value.partition(":")[0] for value in named}
    programs = {name for name, file in found.items() if '__name__ == "__main__"' in file.read_text() or file.stem == "__main__"}
    packages = {name for name, file in found.items() if file.stem == "__init__"}
    dead = set(found) - imported - started - programs - packages
    assert dead == ORACLES, "delete the module, use it, or (a test's oracle) name it above; one that is used now leaves the list"


def test_oracles_are_used_by_tests() -> None:
    used = {name for file in (ROOT / "tests").rglob("*.py") for name in imports(file)}
    assert used >= ORACLES


# -- the wheel ----------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of exactly what is in the tree, built beside it: a build in place would pack what an earlier one left in build/."""
    place = tmp_path_factory.mktemp("wheel")
    for file in files_of_the_tree():
        (place / "source" / file).parent.mkdir(parents=True, exist_ok=True)
        if not (ROOT / file).is_symlink():
            copyfile(ROOT / file, place / "source" / file)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--quiet", "--wheel-dir", str(place / "out")]
    done = subprocess.run(command, cwd=place / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (place / "out").glob("orderflow-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {PurePosixPath(name) for name in archive.namelist()}
    ours = {name for name in packed if name.parts[0] == "orderflow"}
    assert {name.parts[0].partition("-")[2] for name in packed - ours} == {f"{SETUP['project']['version']}.dist-info"}
    expected = {PurePosixPath("orderflow", file.as_posix()) for file in files_of_the_tree() if file.parts[0] in FOLDERS}
    compiled = {name for name in ours - expected if name.match("orderflow/schemas/_codec.*.so")}
    assert ours == expected | compiled
    assert len(compiled) <= 1
    assert PurePosixPath("orderflow/connectors/box/artifacts.lock") in ours
    assert {name.suffix for name in ours - compiled} == {".py", ".pyi", ".pyx", ".avsc", ".lock", ".xml", ".typed"}


@pytest.mark.slow
def test_the_wheel_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "import orderflow.cli.dataflow as found\n"
        "from orderflow.schemas.catalog import Catalog\n"
        "print(found.__file__, len(found.view()), sum(len(each.schema['fields']) > 0 for each in Catalog().subjects()))"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    file, spaces, subjects = done.stdout.rsplit(maxsplit=2)
    assert Path(file).is_relative_to(tmp_path) and int(spaces) == len(catalog.SPACES) and int(subjects) > 40
