"""Run the examples of the documentation and compare, or renew, the output they show.

    python tools/refresh_docs.py            # renew what README.md and docs/*.md show
    python tools/refresh_docs.py --check    # exit 1 where they show something else

A ```console block holds lines `$ COMMAND` and the output of each. They run in a folder of their
own, block after block of one document, with `nnconv` and `examples` of the source tree in it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Example:
    """One command of a document with the output that stands under it."""

    document: Path
    command: str
    shown: str


def examples(document: Path) -> list[Example]:
    """The commands of a document in order."""
    found = []
    for block in BLOCK.findall(document.read_text("utf-8")):
        for command, shown in re.findall(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", block, re.M):
            found.append(Example(document, command, shown))
    return found


def run_all(found: list[Example]) -> Iterator[tuple[Example, str]]:
    """Run the examples of one document after each other; yields each with what it really prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("nnconv", "examples"):
            (folder / part).symlink_to(ROOT / part)
        program = folder / ".bin" / "nnconv"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m nnconv "$@"\n')
        program.chmod(0o755)
        path = f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
        for example in found:
            done = subprocess.run(
                ["bash", "-c", example.command], cwd=folder, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            yield example, done.stdout


def renewed(document: Path) -> str:
    """The text of a document with the output that its commands print now."""
    text = document.read_text("utf-8")
    for example, printed in run_all(examples(document)):
        old = f"$ {example.command}\n{example.shown}"
        text = text.replace(old, f"$ {example.command}\n{printed}", 1)
    return text


def main() -> int:
    stale = 0
    for document in DOCUMENTS:
        text = renewed(document)
        if text != document.read_text("utf-8"):
            stale += 1
            print(f"{document.relative_to(ROOT)} shows old output")
            if "--check" not in sys.argv[1:]:
                document.write_text(text, "utf-8")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
