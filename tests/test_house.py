"""The house stands as docs/architecture.md says: floors, links, and what a wheel must hold."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.places import REPOSITORY

PACKAGE = REPOSITORY / "nnconv"
ROOMS = ("converter", "runtime", "schemas", "zoo")
FLOORS = {"cli": 4, "api": 3, "converter": 2, "runtime": 2, "zoo": 2, "schemas": 1}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if not path.name.endswith("_pb2.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, lazily or at once, but not only for types."""
    for_types = {
        inner
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(path)):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which floor is meant"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_seen_from_the_top_as_links(room: str) -> None:
    link = REPOSITORY / room
    assert link.is_symlink()
    assert link.readlink() == Path("nnconv", room)


def test_nobody_imports_a_room_through_its_link() -> None:
    folders = ("nnconv", "tests", "tools", "benchmarks", "examples")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    wrong = [
        f"{path}: {name}"
        for path in files
        for name in imported(path)
        if name.partition(".")[0] in ROOMS
    ]
    assert wrong == []


def test_arrows_point_down() -> None:
    wrong = []
    for path in SOURCES:
        room = path.relative_to(PACKAGE).parts[0]
        if room not in FLOORS:
            continue
        for name in imported(path):
            other = name.split(".")[1] if name.startswith("nnconv.") else ""
            if other in FLOORS and other != room and FLOORS[other] >= FLOORS[room]:
                wrong.append(f"{path.relative_to(REPOSITORY)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("test_only", ["pytest", "hypothesis", "onnxruntime", "torch", "cv2"])
def test_the_package_needs_nothing_that_only_tests_need(test_only: str) -> None:
    """But for `nnconv bench --with`, whose peers are what the user asks to be compared with."""
    users = [
        path
        for path in SOURCES
        if any(name.partition(".")[0] == test_only for name in imported(path))
    ]
    assert [path.name for path in users if path.name != "peers.py"] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [path for path in SOURCES if path.stat().st_size and not ast.get_docstring(tree(path))]
    assert silent == []


def test_nothing_prints_but_the_command_line() -> None:
    printing = [
        path
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert printing == []


@pytest.mark.parametrize(
    "function", ["eval", "exec", "pickle.load", "pickle.loads", "marshal.loads"]
)
def test_no_input_is_ever_executed(function: str) -> None:
    users = [
        path
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function
    ]
    assert users == []
