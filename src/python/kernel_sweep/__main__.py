"""The tool: ``sweep …`` and ``python -m kernel_sweep …`` are the same."""

import sys


def main() -> int:
    """Runs the tool with this process's arguments; returns its exit code."""
    from . import _native

    return _native.sweep(["sweep", *sys.argv[1:]], sys.executable)


if __name__ == "__main__":
    sys.exit(main())
