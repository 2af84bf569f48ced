"""Run a training script and tell, line by line to a file descriptor, which files it opens in which phase.

    python verify_audit.py DESCRIPTOR SCRIPT ARGUMENTS ...

A phase ends where the script prints a line that begins so: training begins at the first step (or at what is printed
right before it) and is over when the weights are being fitted, scored or written.
"""

from __future__ import annotations

import builtins
import json
import os
import runpy
import sys
from typing import Any

BEGINS, ENDS = ("gptq:reserving", "step:"), ("fit:", "final_", "Total submission size")


def main() -> None:
    report, phase = int(sys.argv[1]), "before"

    def tell(**values: Any) -> None:
        os.write(report, (json.dumps(values) + "\n").encode())

    def hook(name: str, arguments: tuple) -> None:
        if name == "open" and isinstance(arguments[0], (str, bytes)):
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            path = os.path.abspath(os.fsdecode(arguments[0]))
            tell(event="open", path=path, write=bool(flags & (os.O_WRONLY | os.O_RDWR)), phase=phase)

    plain = builtins.print

    def spy(*values: Any, **options: Any) -> None:
        nonlocal phase
        text = str(values[0]) if values else ""
        if phase == "before" and text.startswith(BEGINS):
            phase = "training"
        elif phase == "training" and text.startswith(ENDS):
            phase = "after"
        if text.startswith("step:"):
            tell(event="step", path=text, phase="")
        plain(*values, **options)

    builtins.print = spy
    sys.addaudithook(hook)
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
