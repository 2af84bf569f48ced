"""Commands that use a finished model. Like those of `golf.cli`: thin, and importing what they need when called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from golf.publish.options import SEED


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--prompt", "prompts", multiple=True, help="Text to continue; may be repeated.  [default: none]")
@click.option("--tokens", type=click.IntRange(1), default=200, show_default=True, help="New tokens at most.")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="0 takes the likeliest.")
@click.option("--top-k", type=int, default=0, help="Only the k likeliest tokens.  [default: all]")
@click.option("--top-p", type=float, default=1.0, help="Only the likeliest tokens with this probability.")
@click.option("--repetition-penalty", type=float, default=1.0, help="Above 1, tokens that were there come less.")
@click.option("--no-repeat", type=int, default=0, help="No run of this many tokens comes twice.")
@click.option("--seed", type=SEED, default=1337, show_default=True)
@click.option("--window", type=click.IntRange(1), help="Tokens each token sees.  [default: all, if the model can]")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="The tokenizer, when not beside SOURCE.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of the texts.")
def generate(
    source: Path,
    prompts: Sequence[str],
    tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    no_repeat: int,
    seed: int,
    window: int | None,
    tokenizer: Path | None,
    as_json: bool,
) -> None:
    """Continue texts with a model.

    SOURCE is a run folder, an artifact or weights.
    """
    from golf.eval.sampling import Sampling
    from golf.publish.use import generating

    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        no_repeat=no_repeat,
    )
    prompts = prompts or ("",)
    alone = len(prompts) == 1 and not as_json

    begun = False

    def write(number: int, piece: str) -> None:
        nonlocal begun
        if alone:
            click.echo(piece if begun else prompts[0] + piece, nl=False)
            begun = True

    texts = generating.continue_texts(
        source, tokenizer, prompts, tokens=tokens, sampling=sampling, seed=seed, window=window, write=write
    )
    if as_json:
        click.echo(json.dumps([asdict(text) for text in texts], indent=1, ensure_ascii=False))
    elif alone:
        click.echo("" if begun else prompts[0])
    else:
        for text in texts:
            click.secho(text.prompt, bold=True, nl=False)
            click.echo(f"{text.text}\n")
