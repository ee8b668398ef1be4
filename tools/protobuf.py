"""Generate nnconv/schemas/*_pb2.py and .pyi from the .proto files; `--check` exits 1 when they are
stale.

The generator is grpcio-tools 1.76.0 in a virtual environment of its own: its code runs on protobuf
6.31 to 7.x, while newer generators make code that older runtimes refuse to import.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

GENERATOR = "grpcio-tools==1.76.0"
ROOT = Path(__file__).parent.parent
PROTOS = [f"nnconv/schemas/{name}.proto" for name in ("ir", "checkpoint", "nevermind")]
HOME = Path(tempfile.gettempdir()) / f"nnconv-{GENERATOR.replace('==', '-')}"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        made = {
            path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*_pb2.py*")
        }
    if "--check" in sys.argv[1:]:
        stale = [str(path) for path, text in made.items() if not is_current(ROOT / path, text)]
        print(
            f"{', '.join(stale)}: run tools/protobuf.py" if stale else "generated code is current"
        )
        return bool(stale)
    for path, text in made.items():
        (ROOT / path).write_bytes(text)
    return 0


def generate(folder: Path) -> None:
    """Run the generator; file names are relative to the root, so that they are unique in the
    pool."""
    command = [generator(), "-m", "grpc_tools.protoc", "-I", ".", f"--python_out={folder}"]
    subprocess.run([*command, f"--pyi_out={folder}", *PROTOS], cwd=ROOT, check=True)


def generator() -> Path:
    """The Python that has the generator installed, made when first needed."""
    python = HOME / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not (HOME / "ready").exists():
        venv.create(HOME, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", GENERATOR], check=True)
        (HOME / "ready").touch()
    return python


def is_current(path: Path, text: bytes) -> bool:
    return path.exists() and path.read_bytes() == text


if __name__ == "__main__":
    sys.exit(main())
