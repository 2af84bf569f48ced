"""`golf verify`. Thin, and importing what it needs when it is called."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import click

from golf.publish.options import FILE, FOLDER, console, json_option

TIER_NAMES = ("static", "quick", "full")


@click.command()
@click.argument("path", metavar="SUBMISSION", type=FOLDER)
@click.option("--tier", type=click.Choice(TIER_NAMES), default="quick", show_default=True,
              help="A second, two minutes, or everything.")  # fmt: skip
@click.option("--data", type=FOLDER, help="Validation text, when this machine has it elsewhere.")
@click.option("--seed", type=int, help="The seed of a submission whose artifact to run.  [default: its first]")
@click.option("--html", type=FILE, help="Write a page with the evidence.")
@json_option
def verify(
    path: Path, tier: str, data: Path | None, seed: int | None, html: Path | None, as_json: bool
) -> None:
    """Test every validity condition on SUBMISSION. Exits 1 when one is broken.

    SUBMISSION is a run of golf, a folder of `golf submit`, or any folder with a verify.json (see docs/verify.md).
    """
    from golf.host import write_atomic
    from golf.publish.terminal import ProgressBar
    from golf.publish.verify import report as verify_report
    from golf.publish.verify import suite as verifying

    # Told to stop, it ends the processes it has started as it does when it is through.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    subject = verifying.open_subject(path, data, seed)
    with ProgressBar() as bar:
        report = verifying.verify(subject, verifying.TIERS[tier], bar)
    if html is not None:
        write_atomic(html, verify_report.page(report).encode())
    if as_json:
        click.echo(json.dumps(verify_report.values(report), indent=1))
    else:
        console().print(verify_report.table(report))
        if html is not None:
            click.echo(f"evidence in {html}")
    sys.exit(0 if report.ok else 1)
