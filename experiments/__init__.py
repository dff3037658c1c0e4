"""One claim is one file, or one folder with `__main__.py` and rooms of its own; what two share is in `kdjax.study`.

The command `kdjax NAME --flag=value ...` starts `python -m experiments.NAME --flag=value ...`; without a name it lists
all names.
"""

import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from kdjax.types import nearest

HERE = Path(__file__).parent
STARTS = "command." + "start("
"""What an experiment says and its rooms do not."""


def names() -> dict[str, str]:
    """Every experiment, and the first line of what it says of itself."""
    found = {}
    for file in sorted(HERE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if STARTS in text:
            name = ".".join(file.relative_to(HERE).with_suffix("").parts).removesuffix(".__main__")
            found[name] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Start an experiment, or list them all; the exit code."""
    name, *flags = (sys.argv[1:] if argv is None else argv) or [""]
    known = names()
    if not name or name in ("-h", "--help"):
        print("kdjax NAME [--flag=value ...]\n")
        print("\n".join(f"{name:24}{line}" for name, line in known.items()))
        return 0
    if name not in known:
        near = nearest(name, list(known))
        print(f"error: no experiment {name}; accepted: {', '.join(known)}{near}", file=sys.stderr)
        return 2
    sys.argv[1:] = flags
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    return 0
