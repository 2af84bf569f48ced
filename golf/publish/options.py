"""What several commands take, and where they print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
SEED = click.IntRange(0, 2**32 - 1)
set_option = click.option(
    "--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Override a recipe field; may be repeated."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
bos_option = click.option(
    "--bos", default="", metavar="TOKEN", help="What opens documents, where tokenizer_config.json does not say."
)
eos_option = click.option("--eos", default="", metavar="TOKEN", help="What ends them, likewise.")


def console() -> Any:
    from rich.console import Console

    return Console()
