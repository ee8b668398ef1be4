"""Write docs/operators.md from the tables that the operators' families fill.

python tools/operators_page.py            # write it
python tools/operators_page.py --check    # exit 1 where it is not current
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "operators.md"

HEAD = """\
# Operators

Made by `tools/operators_page.py` from the tables that the families register in;
[adding a layer](adding-a-layer.md) says where each mark comes from.

- **runs**: there is a reference kernel, or a body of operators that have one. Every graph of these
  runs on every device.
- **gradient**: it can be trained through, and `nnconv grad` writes its gradient.
- **kernels**: it is compiled for processors and OpenCL devices, in the forms that its rule in
  `runtime/lowering/` takes (floats of known sizes, as a rule); `nnconv show MODEL --plan` says what
  a model's nodes become. What is expanded into such operators first needs none; the others run on
  the host.
- **Caffe**: `nnconv ir2caffe` has a layer for it, where its settings can be said in Caffe.

"""


def main() -> int:
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, "utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text("utf-8") == text:
        return 0
    print("docs/operators.md is not current: run python tools/operators_page.py")
    return 1


def page() -> str:
    import_module("nnconv.runtime.lowering")  # the families fill their tables
    from nnconv.schemas.operators import operators

    names = [name for name in operators() if any(marks(name)[:3])]
    standard = [name for name in names if "." not in name]
    own = [name for name in names if "." in name]
    return (
        HEAD
        + f"## ONNX's: {len(standard)} of {sum('.' not in name for name in operators())}\n\n"
        + table(standard)
        + f"\n## Our own: {len(own)}\n\nWhat no standard operator says exactly: Caffe's way of "
        "doing a thing, losses, state, and gradients.\n\n" + table(own)
    )


def table(names: list[str]) -> str:
    lines = ["| operator | runs | gradient | kernels | Caffe |", "|---|---|---|---|---|"]
    for name in sorted(names):
        cells = " | ".join("x" if mark else "" for mark in marks(name))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def marks(name: str) -> tuple[bool, bool, bool, bool]:
    """Whether an operator runs, is differentiated, has kernels, and goes to Caffe."""
    from nnconv.converter.caffe.layers.registry import WRITERS
    from nnconv.runtime.lowering.claims import RULES, WHOLE
    from nnconv.runtime.ops import KERNELS
    from nnconv.runtime.ops.rules import GRADIENTS, THROUGH
    from nnconv.schemas.functions import BODIES

    bodied = name in BODIES
    return (
        name in KERNELS or bodied,
        name in GRADIENTS or name in THROUGH or bodied,
        name in RULES or name in WHOLE,
        name in WRITERS,
    )


if __name__ == "__main__":
    sys.exit(main())
