"""`golf` and `python -m golf`: run a command; a mistake of the user's is one sentence and a non-zero exit."""

from __future__ import annotations

import sys

from golf.cli import cli


def main() -> None:
    from golf.contracts import GolfError

    try:
        cli(prog_name="golf")
    except GolfError as error:
        sys.exit(f"golf: {error}")
    except OSError as error:  # a full disk, a missing file, no permission
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"golf: {where}{error.strerror or error}")


if __name__ == "__main__":
    main()
