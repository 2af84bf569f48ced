"""`golf generate`: texts continued by a model on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf import host as hosts
from golf.contracts import DataError
from golf.data import speaking
from golf.eval.generate import generate
from golf.eval.sampling import Sampling
from golf.publish.use.source import open_source

HALF = "\ufffd"  # what decoding gives for a character whose bytes have not all come


@dataclass
class Text:
    """A prompt as the model's tokens spell it, what followed, and what ended it: a "stop" token or the "length"."""

    prompt: str
    text: str
    tokens: int
    ended: str


def continue_texts(
    path: Path,
    tokenizer: Path | None,
    prompts: Sequence[str],
    *,
    tokens: int,
    sampling: Sampling,
    seed: int,
    window: int | None,
    write: Callable[[int, str], object],
) -> list[Text]:
    """Continue each prompt by at most `tokens`, until the model begins another document.

    write: called with a prompt's number and the next piece of its text as soon as that is certain.
    window: how far back each token sees; by default everything, or the model's reach where the text gets longer.
    """
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"the prompt {prompt!r} is not UTF-8; write it in that encoding") from error
    source = open_source(path, tokenizer)
    speaker = speaking.speaker(source.tokenizer)
    given = [[speaker.bos, *speaker.encode(prompt).tolist()] for prompt in prompts]
    spelled = [speaker.decode(ids[1:]) for ids in given]
    texts, written, counts = [list(ids[1:]) for ids in given], list(map(len, spelled)), [0] * len(given)
    with hosts.join() as host:
        model = source.build().to(host.device)
        reach = reach_of(model.spec)
        if window is None and max(map(len, given)) + tokens > reach:
            window = reach
        stream = generate(
            model, given, tokens=tokens, sampling=sampling, seed=seed, stops={speaker.bos, speaker.eos},
            window=window, host=host,
        )  # fmt: skip
        for number, token in stream:
            counts[number] += 1
            texts[number].append(token)
            text = speaker.decode(texts[number])
            if not text.endswith(HALF):
                write(number, text[written[number] :])
                written[number] = len(text)
    whole = [speaker.decode(ids) for ids in texts]
    return [
        Text(prompt, text[len(prompt) :], count, "length" if count == tokens else "stop")
        for prompt, text, count in zip(spelled, whole, counts)
    ]


def reach_of(spec: Any) -> int:
    """Tokens that a model reads at most, or, where it has no such limit, was trained to."""
    return getattr(spec, "context", None) or spec.rope_length
