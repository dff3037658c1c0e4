"""What commands about finished runs share: their arguments, and one line where an input is wrong."""

import argparse
import sys
from collections.abc import Callable, Sequence

from kdjax.types import BadInput


def run(
    module: str,
    doc: str | None,
    add: Callable[[argparse.ArgumentParser], None],
    act: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str],
) -> int:
    """Read arguments and act on them.

    Args:
        module, doc: the command's module and its docstring, for `--help`.
        add: adds the arguments.
        act: what is done with them; its exit code, None for 0.
        argv: what was typed after the command.

    Returns: the exit code; 2 where `act` raised `BadInput`, whose words are printed in one line. argparse leaves with 2
        too where an argument is missing or unknown.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add(parser)
    try:
        return act(parser.parse_args(argv)) or 0
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
