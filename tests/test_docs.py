"""What the documentation shows is what happens: commands, Python examples, links, pictures."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.places import REPOSITORY
from tools.refresh_docs import BLOCK, DOCUMENTS, examples, run_all

PAGES = [pytest.param(path, id=str(path.relative_to(REPOSITORY))) for path in DOCUMENTS]
WITH_COMMANDS = [page for page in PAGES if examples(page.values[0])]  # type: ignore[arg-type]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_print_what_the_page_shows(page: Path) -> None:
    for example, printed in run_all(examples(page)):
        assert printed == example.shown, example.command


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_console_block_is_recognised(page: Path) -> None:
    blocks = BLOCK.findall(page.read_text("utf-8"))
    assert sum(block.count("\n$ ") + block.startswith("$ ") for block in blocks) == len(
        examples(page)
    )


@pytest.mark.parametrize("page", PAGES)
def test_python_examples_do_what_they_show(page: Path) -> None:
    blocks = re.findall(r"^```pycon\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    for block in blocks:
        runner.run(parser.get_doctest(block, {}, page.name, str(page), 0))
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CHANGELOG.md"])
def test_links_lead_somewhere(page: Path) -> None:
    targets = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


def test_the_readme_says_where_everything_is() -> None:
    links = set(LINK.findall((REPOSITORY / "README.md").read_text("utf-8")))
    assert {str(path.relative_to(REPOSITORY)) for path in DOCUMENTS[1:]} <= links


def test_pictures_are_well_formed() -> None:
    for picture in (REPOSITORY / "docs").glob("*.svg"):
        assert ET.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_the_readme_first_command_reads_every_digit(tmp_path: Path) -> None:
    program = tmp_path / "nnconv"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nnconv "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    command = ["sh", str(REPOSITORY / "examples/lenet.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for name in ("zero", "one", "two", "four", "five", "seven"):
        assert re.search(rf"^{name}\.png +{name} ", done.stdout, re.M)


@pytest.mark.parametrize(
    "script", sorted((REPOSITORY / "examples").glob("*.py")), ids=lambda p: p.name
)
def test_python_scripts_run(script: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
