"""Commands around finished runs: checked, handed in, ranked, reported, repeated, swept for. Like those of `golf.cli`:
thin, and importing what they need when called."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from golf.publish.options import FILE, FOLDER, console, json_option


@click.command()
@click.argument("path", metavar="RUN_OR_SUBMISSION", type=FOLDER)
@json_option
def check(path: Path, as_json: bool) -> None:
    """Compare RUN_OR_SUBMISSION with its own files and logs.

    Exits 1 when it is over the cap or something disagrees.

    Also takes a record folder with its results, and the submission.json of a submission made elsewhere.
    """
    from golf.publish import terminal
    from golf.publish.submit import check as checks

    ledger, verdicts = checks.check(path)
    good = all(verdict.ok is not False for verdict in verdicts)
    if as_json:
        counted = asdict(ledger) | {"total": ledger.total, "headroom": ledger.headroom} if ledger else None
        values = {"ok": good, "ledger": counted}
        click.echo(json.dumps(values | {"checks": [asdict(verdict) for verdict in verdicts]}, indent=1))
    else:
        console().print(terminal.check_table(str(path), ledger, verdicts))
    sys.exit(0 if good else 1)


@click.command()
@click.argument("runs", metavar="RUN...", type=FOLDER, nargs=-1, required=True)
@click.option("-o", "--output", type=FOLDER, required=True, help="New folder for the submission.")
@click.option("--parent", type=FOLDER, help="Runs, submission or record that this recipe changes.")
@click.option("--author", help="Display name.  [default: git's user.name, else the login name]")
@click.option("--github-id", help="Handle.  [default: git's github.user, else the author]")
@click.option("--name", help="Of the submission.  [default: the run folder's]")
@click.option("--date", help="YYYY-MM-DD.  [default: what DIR's name begins with, else today]")
@click.option("--blurb", help="One paragraph for the top of the README.")
@click.option("--artifacts/--no-artifacts", default=True, show_default=True, help="Keep each seed's weights.")
@json_option
def submit(
    runs: Sequence[Path], output: Path, parent: Path | None, artifacts: bool, as_json: bool, **given: str | None
) -> None:
    """Write a submission of finished RUNs.

    README, metadata, the one-file script, logs, tokenizer and artifacts. RUN is OUT or OUT/<seed> of `golf run`.
    """
    from golf.publish.submit import folder as submission
    from golf.publish.submit import seeds

    against = seeds.read(parent) if parent else None
    values = submission.write(runs, output, given=given, parent=against, artifacts=artifacts)
    if as_json:
        click.echo(json.dumps(values, indent=1))
        return
    spread = f" ± {values['val_bpb_std']:.5f}" if values["val_bpb_std"] is not None else ""
    click.echo(f"{output}: {values['val_bpb']:.5f}{spread} bits per byte over {len(values['seeds'])} seeds")
    click.echo(values.get("comparison", "compare it with what it changes: --parent"))


@click.command()
@click.argument("paths", metavar="[PATH]...", type=FOLDER, nargs=-1)
@click.option("--html", type=FILE, help="Write one self-contained page instead of printing.")
@click.option("--match", help="Only entries whose path holds this; * and ? as in file names.")
@click.option("--title", default="Leaderboard", show_default=True, help="Of the page.")
@json_option
def board(paths: Sequence[Path], html: Path | None, match: str | None, title: str, as_json: bool) -> None:
    """Compare records, runs and submissions, by track and corpus.

    PATH is a folder of records, of runs or of submissions, whoever published them.  [default: records]
    """
    from golf.host import write_atomic
    from golf.publish.board import page as board_page
    from golf.publish.board import ranking as boards

    groups = boards.board(paths or (Path("records"),), match)
    if html is not None:
        write_atomic(html, board_page.page(groups, title).encode())
        count = sum(len(group.rows) for group in groups)
        click.echo(f"{html}: {count} entries, {html.stat().st_size:,} bytes", err=as_json)
    if as_json:
        click.echo(json.dumps(board_page.values(groups), indent=1))
    elif html is None:
        for group in groups:
            console().print(board_page.table(group))


@click.command()
@click.argument("runs", metavar="RUN [OTHER]", type=FOLDER, nargs=-1, required=True)
@click.option("-o", "--output", type=FILE, default=Path("report.html"), show_default=True)
@click.option("--tokens", type=click.IntRange(0), default=50_000, show_default=True,
              help="Validation text read closely.")  # fmt: skip
@click.option("--costs", type=click.FloatRange(0), default=60.0, show_default=True,
              help="Seconds for measuring what rounding each tensor costs.")  # fmt: skip
@json_option
def report(runs: Sequence[Path], output: Path, tokens: int, costs: float, as_json: bool) -> None:
    """Write one self-contained page on a RUN, or on two.

    Curves, bytes, what rounding did and costs, what is hard to predict. RUN is OUT/<seed> of `golf run`.
    """
    from golf.publish.report import page as reports

    values = reports.write(runs, output, tokens, costs)
    if as_json:
        click.echo(json.dumps(values, indent=1))
        return
    click.echo(f"{output}: {output.stat().st_size:,} bytes, opens from disk")


@click.command()
@click.argument("record", type=FOLDER)
@click.option("--set", "assignments", multiple=True, metavar="PATH=V1,V2",
              help="Values to try, or low..high[:log]; with one value, for all points. May be repeated.")  # fmt: skip
@click.option("--method", type=click.Choice(["grid", "random", "tpe"]), default="grid", show_default=True,
              help="Every combination, points drawn from all, or Optuna's TPE.")  # fmt: skip
@click.option("--trials", type=click.IntRange(1), default=20, show_default=True, help="Points of random and tpe.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs of each point.")
@click.option("--out", type=FOLDER, help="Files of the runs.  [default: runs/<record>-sweep]")
@click.option("--join", metavar="STORAGE", help="Journal file on a shared disk, or postgresql://...  [default: in OUT]")
@click.option("--ranks", type=click.IntRange(1), default=1, show_default=True, help="Processes of each run.")
@click.option("--patience", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True,
              help="Seconds until a silent worker counts as dead.")  # fmt: skip
@json_option
def sweep(
    record: Path, out: Path | None, join: str | None, ranks: int, patience: float, as_json: bool, **what: Any
) -> None:
    """Try many values of RECORD's fields.

    Started again it goes on, started twice on one storage it shares the work. A point that looks hopeless before
    quantization is spared its other seeds.

    \b
    golf sweep RECORD --set train.matrix.lr=0.02,0.03 --set train.ema=0.98,0.99
    golf sweep RECORD --method tpe --trials 30 --set train.matrix.lr=0.01..0.1:log
    """
    from golf.publish.sweep import study as sweeps
    from golf.publish.sweep import worker as sweep_worker

    plan = sweeps.plan(record, what.pop("assignments"), **what)
    out = out or Path("runs") / f"{plan.record}-sweep"
    storage = join or str(out / sweeps.JOURNAL)

    def say(text: str) -> None:
        click.echo(text, err=True)

    found = sweep_worker.work(record, plan, storage, out, patience=patience, ranks=ranks, say=say)
    if as_json:
        click.echo((out / sweep_worker.RESULTS).read_text())
        return
    console().print(sweeps.table(found, plan))


@click.command()
@click.argument("path", metavar="RECORD_OR_SUBMISSION", type=FOLDER)
@click.option("--seed", type=int, help="Which of its seeds.  [default: the first]")
@click.option("--score-only", is_flag=True, help="Score the kept artifact instead of training again.")
@click.option("--data", type=FOLDER, help="With --score-only: the validation text.  [default: its own]")
@click.option("--out", type=FOLDER, help="Where the new run's files go.  [default: nowhere]")
@json_option
def reproduce(
    path: Path, seed: int | None, score_only: bool, data: Path | None, out: Path | None, as_json: bool
) -> None:
    """Run or score a published seed again.

    Exits 1 when the score is not one its seeds let expect.

    Also takes the folder of a run. This runs the recipe or script it finds there: know where you have it from.
    """
    from golf.publish import terminal
    from golf.publish.submit import reproduce as again

    told = again.claim(path, seed)
    if score_only:
        with terminal.ProgressBar() as bar:
            verdicts = again.score_again(told, data, bar)
    else:
        verdicts = again.run_again(told, out)
    good = all(verdict.ok is not False for verdict in verdicts)
    if as_json:
        values = {"ok": good, "seed": told.result.seed, "checks": [asdict(verdict) for verdict in verdicts]}
        click.echo(json.dumps(values, indent=1))
    else:
        console().print(terminal.check_table(f"{path} seed {told.result.seed}", None, verdicts))
    sys.exit(0 if good else 1)
