"""Zero-shot tasks through EleutherAI's lm-eval (the extra `lm-eval`): any golf model answers its requests.

Offline throughout: a task comes from a file, or is a published one whose data lie in the cache of `datasets`.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import yaml
from huggingface_hub import constants
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

from golf.contracts import DataError, Model, Sink
from golf.data.speaking import byte_table, speaker
from golf.eval import sliding, zeroshot
from golf.eval.generate import generate
from golf.eval.sampling import Sampling
from golf.eval.zeroshot import Request
from golf.host import Host

FILE_READERS = ("arrow", "csv", "json", "parquet", "text")  # of `datasets`
# Published tasks, and the folders of lm-eval they are in: to index all of its tasks takes ten seconds.
PUBLISHED = {
    "hellaswag": "hellaswag", "arc_easy": "arc", "arc_challenge": "arc", "piqa": "piqa", "winogrande": "winogrande",
    "commonsense_qa": "commonsense_qa", "mmlu": "mmlu",
}  # fmt: skip
# What a line of a .jsonl task file holds: {"query": text, "choices": [text, ...], "answer": index}.
JSONL = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}

# Resamplings for metrics whose standard error has no formula; those of multiple choice have one.
BOOTSTRAPS = 1000
# Tokens generated where a task does not say how many.
MOST_TOKENS = 256


class GolfLM(TemplateLM):
    """A golf model as lm-eval sees one. Every text begins with BOS, as every document of the training text did."""

    def __init__(self, model: Model, tokenizer: bytes, *, window: int, host: Host, sink: Sink) -> None:
        super().__init__()
        self._model, self._window, self._host, self._sink = model, window, host, sink
        self._speaker, self._table = speaker(tokenizer), byte_table(tokenizer)

    @property
    def eot_token_id(self) -> int:
        return self._speaker.bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self._speaker.encode(string).tolist()

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        asked = []
        for (context, continuation), given, wanted in requests:
            if not wanted:
                raise DataError(
                    f"the tokenizer spells {continuation!r} behind {context[-40:]!r} with no token of its own; "
                    "change the choice"
                )
            given = given if given[:1] == [self._speaker.bos] else [self._speaker.bos, *given]
            asked.append(Request(tuple(given), tuple(wanted)))
        found = zeroshot.log_probabilities(self._model, asked, window=self._window, host=self._host, sink=self._sink)
        return [(answer.log_probability, answer.greedy) for answer in found]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, in windows that do not overlap."""
        found = []
        for request in requests:
            tokens = [self._speaker.bos, *self.tok_encode(request.args[0])]
            total = sliding.score(
                self._model, tokens, self._table, window=self._window, stride=self._window, host=self._host
            )
            found.append(-total.nats)
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Each context continued until one of its `until` texts, which is left out, or the end of the document."""
        return [self._continued(*request.args) for request in requests]

    def _continued(self, context: str, options: dict[str, Any]) -> str:
        speaker, until = self._speaker, options.get("until") or []
        until = [until] if isinstance(until, str) else until
        tokens = int(options.get("max_gen_toks", MOST_TOKENS))
        temperature = float(options.get("temperature", 0.0)) if options.get("do_sample", False) else 0.0
        given = [speaker.bos, *self.tok_encode(context)][-self._window :]
        before = len(speaker.decode(given))

        def text_of(ids: Sequence[int]) -> str:
            return speaker.decode([*given, *ids])[before:]

        stream = generate(
            self._model, [given], tokens=tokens, sampling=Sampling(temperature=temperature), seed=0,
            stops={speaker.bos, speaker.eos}, window=self._window, host=self._host,
            until=lambda _, ids: any(stop in text_of(ids) for stop in until),
        )  # fmt: skip
        text = text_of([token for _, token in stream])
        return text[: min([text.find(stop) for stop in until if stop in text], default=len(text))]


def evaluate(lm: GolfLM, tasks: Sequence[str], limit: int | None) -> dict[str, dict[str, Any]]:
    """Per task (and group of tasks) its number of questions and its metrics with their standard errors.

    tasks: task files (.yaml of lm-eval, .jsonl) or names in PUBLISHED.  limit: questions of each, None for all.
    Raises DataError for a task that is malformed or whose data are not on this machine.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # Both libraries read these when they are used; environment variables would be too late by now.
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="golf-tasks-") as cache:
        wanted = [_task(name, cache) for name in tasks]
        shelves = {PUBLISHED[task] for task in wanted if isinstance(task, str)}
        manager = TaskManager(
            include_path=[Path(lm_eval.tasks.__file__).parent / shelf for shelf in sorted(shelves)],
            include_defaults=False,
        )
        try:
            found = evaluator.simple_evaluate(
                lm, tasks=wanted, num_fewshot=0, limit=limit, task_manager=manager, log_samples=False,
                bootstrap_iters=BOOTSTRAPS,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, datasets.exceptions.DatasetGenerationError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(_why(tasks, error)) from error
    rows = found["results"] | found.get("groups", {})
    counts = found["n-samples"]
    return {
        name: {"questions": counts.get(name, {}).get("effective")} | _metrics(values) for name, values in rows.items()
    }


def _task(name: str, cache: str) -> str | dict[str, Any]:
    """What lm-eval takes for a task file or a published name. Raises DataError for neither."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml", ".jsonl"):
        if name not in PUBLISHED:
            raise DataError(f"--task {name} is no .yaml or .jsonl file, nor one of {', '.join(PUBLISHED)}")
        return name
    if not path.is_file():
        raise DataError(f"task file {path} does not exist; correct the path")
    if path.suffix == ".jsonl":
        _check_lines(path)
        files = {"test": str(path.resolve())}
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": files, "cache_dir": cache}}
        return {"task": path.stem, "test_split": "test"} | JSONL | data
    try:
        task = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as plain YAML ({reason}); golf runs no functions of it") from error
    if not isinstance(task, dict) or "task" not in task:
        raise DataError(f"{path} must be a table with a `task` name and lm-eval's settings; see its task guide")
    options = dict(task.get("dataset_kwargs") or {})
    if "data_files" in options:
        options["data_files"] = _beside(path.parent, options["data_files"])
        options.setdefault("cache_dir", cache)
    elif task.get("dataset_path") in FILE_READERS:  # `datasets` would search everything below the current folder
        kind = task["dataset_path"]
        raise DataError(f"{path} reads {kind} files and names none; add dataset_kwargs: {{data_files: {{test: FILE}}}}")
    return task | {"dataset_kwargs": options}


def _beside(folder: Path, files: Any) -> Any:
    """Paths of data files as seen from the task file that names them."""
    if isinstance(files, dict):
        return {split: _beside(folder, names) for split, names in files.items()}
    if isinstance(files, list):
        return [_beside(folder, name) for name in files]
    return str((folder / files).resolve())


def _check_lines(path: Path) -> None:
    """Raises DataError for a line that is not {"query": text, "choices": [texts], "answer": index}."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not any(line.strip() for line in lines):
        raise DataError(f"{path} holds no question; write one JSON object a line")
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            query, choices, answer = entry["query"], entry["choices"], entry["answer"]
            good = isinstance(query, str) and all(isinstance(choice, str) for choice in choices)
            good = good and type(answer) is int and 0 <= answer < len(choices)
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise DataError(
                f'{path} line {number} is not {{"query": text, "choices": [texts], "answer": index}}; mend it'
            )


def _why(tasks: Sequence[str], error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if any(name in PUBLISHED for name in tasks):
        return (
            f"the data of {', '.join(tasks)} are not in the cache of `datasets` on this machine, and golf loads "
            f"none itself ({reason:.200}); load them once with datasets.load_dataset, or name a task file"
        )
    return f"lm-eval cannot run {', '.join(tasks)} ({reason:.300}); mend the task file"


def _metrics(values: dict[str, Any]) -> dict[str, float]:
    """ "acc,none" and "acc_stderr,none" without the name of a filter nobody chose."""
    numbers = {name.partition(",")[0]: value for name, value in values.items() if "," in name}
    return {name: value for name, value in numbers.items() if isinstance(value, (int, float))}
