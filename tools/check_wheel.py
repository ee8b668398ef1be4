"""Check that a built wheel holds every data file of the source tree, and nothing outside the
package.

python tools/check_wheel.py dist/nnconv-*.whl
"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ("*.json", "*.proto", "*.pyi", "py.typed", "*.desc")


def main(wheel: Path) -> int:
    packed = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "nnconv"
    wanted = {path for pattern in ("*.py", *DATA) for path in package.rglob(pattern)}
    wanted |= {path for path in (package / "zoo" / "models").rglob("*") if path.is_file()}
    missing = sorted(
        str(path.relative_to(ROOT)) for path in wanted if str(path.relative_to(ROOT)) not in packed
    )
    stray = sorted(name for name in packed if not name.startswith(("nnconv/", "nnconv-")))
    for name in missing:
        print(f"{wheel.name} lacks {name}")
    for name in stray:
        print(f"{wheel.name} should not hold {name}")
    return 1 if missing or stray else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
