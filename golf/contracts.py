"""What crosses the borders between rooms: small frozen values, protocols and the error classes.

Shape legend, the same in every file of golf:
    B batch  T time  S source time  C model width  H query heads  G kv heads  D head width  V vocab
    R weight rows (outputs)  K weight columns (inputs)  N calibration tokens
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:  # so that packing, checking and `golf --help` start without torch
    import torch
    from torch import Tensor

# ---------------------------------------------------------------------------------------------- errors


class GolfError(Exception):
    """Something a user can mend. The text is one sentence: the value, the bound and the way out."""


class SpecError(GolfError, ValueError):
    """A recipe or model specification holds a value that cannot work."""


class RoleError(SpecError):
    """A model says of its parameters what cannot be: a fault in the code of a family, not in a recipe."""


class DataError(GolfError, ValueError):
    """A shard, document file, tokenizer or corpus is missing, malformed or does not match."""


class CheckpointError(GolfError, ValueError):
    """A checkpoint or weights file is malformed or belongs to another run or model."""


class ArtifactError(GolfError, ValueError):
    """An artifact is malformed, truncated, altered or of a format this version does not read."""


class ChecksumError(ArtifactError):
    """An artifact's bytes are not those that were written."""


class BudgetError(GolfError):
    """Bytes or seconds are over the track's limit, or can never get under it."""


class HessianError(GolfError):
    """A Hessian is not positive definite after damping, or was never collected."""


class DivergedError(GolfError):
    """The loss or a gradient is no longer finite, or exploded."""


class PredictorError(GolfError):
    """A predictor answered something that is no distribution, or broke the interface it is scored through."""


# ------------------------------------------------------------------------------------------------ model


class Role(Enum):
    """What a parameter is for. Declared once, by the family; read by optimizers, quantizers and reports."""

    MATRIX = "matrix"  # hidden 2-D weights: Muon, fine grid, Hessian from the layer's inputs
    EMBED = "embed"  # tables that are only looked up: AdamW, round-to-nearest
    HEAD = "head"  # the output projection, tied to the input table or not: AdamW, final-norm Hessian
    CONTROL = "control"  # gains, gates, mixes, biases: AdamW without decay, kept in float


class Model(Protocol):
    """An `nn.Module` of any family. Training, scoring and quantization know nothing else about it."""

    spec: ModelSpec

    def forward(self, ids_BT: Tensor, tail: int | None = None) -> Tensor:
        """Logits [B, T, V] in float32; with `tail`, only those of the last `tail` positions, and the last
        block and the head are computed for these alone."""
        ...

    def loss(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats over targets that are not -100. `targets` are already shifted."""
        ...

    def roles(self) -> dict[str, Role]:
        """The role of every name in `named_parameters()`, each exactly once."""
        ...

    def switch(self, name: str, on: bool) -> None:
        """Flip a named behavior of the family (a loop, say). Raises SpecError for an unknown name."""
        ...


class ModelSpec(Protocol):
    """Frozen shape of one family. `family` is its key in `golf.arch.families`."""

    family: str
    vocab: int

    def build(self) -> Model: ...

    def tiny(self) -> ModelSpec:
        """The same features at a size that trains in seconds on a CPU."""
        ...


class Init(Protocol):
    """Where training begins, if not at a family's own random weights."""

    def load(self, model: Model, about: Mapping[str, Any]) -> None:
        """Fill the model in place. `about` is what a run writes beside its weights: model shape, tokenizer."""
        ...


@runtime_checkable
class Hooked(Protocol):
    """A layer with a 2-D weight. Both hooks are None until another room attaches a function.

    fake(W_RK) -> W_RK   the weight the forward pass uses instead (late QAT)
    watch(x_NK) -> None  sees every input that meets the weight as a matrix (Hessians); for a tied
                         embedding these are the inputs of the head
    """

    weight: Tensor
    fake: Callable[[Tensor], Tensor] | None
    watch: Callable[[Tensor], None] | None


@dataclass(frozen=True)
class Side:
    """A tensor's part in a symmetry: along `axis`, from `begin` on, every unit has `block` entries in a row.

    power: of a unit's factor, by which these entries are multiplied; 0 leaves them as they are.
    """

    name: str
    axis: int
    power: int = 0
    block: int = 1
    begin: int = 0


@dataclass(frozen=True)
class Symmetry:
    """What may be done to weights without changing what they compute. Declared by the family.

    units: may change places, in all sides alike, where `order`; each may have a factor above 0 where any side has a
    power, one below 0 too where `signs`.
    """

    units: int
    sides: tuple[Side, ...]
    order: bool = True
    signs: bool = False

    @property
    def scales(self) -> bool:
        return any(side.power for side in self.sides)


# ------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class ByteTable:
    """Bytes that tokens spell (field rules: control, unknown and unused pieces spell nothing; a byte piece
    spells one; the leading space marker counts one byte unless the token before is a boundary).

    bytes_V: int64, bytes without the leading marker.  opens_V: bool, piece starts with the marker.
    boundary_V: bool, control, unknown or unused.
    """

    bytes_V: np.ndarray
    opens_V: np.ndarray
    boundary_V: np.ndarray

    @property
    def vocab(self) -> int:
        return len(self.bytes_V)

    def count(self, prev: np.ndarray, next: np.ndarray) -> np.ndarray:
        """Bytes spelled by each token of `next` when it follows the token of `prev` at the same place."""
        return self.bytes_V[next] + (self.opens_V[next] & ~self.boundary_V[prev])


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Tokenized text on disk, ready to be mapped into memory.

    sha256 names the text and its split: scores of different corpora are never compared.
    tokenizer_counted: its bytes are part of the ledger (the run trained it), or shown only (a stock one).
    speaker: opens the tokenizer's file, as something that has a `table`, the bytes its tokens spell.
    draw: (context length, seed) -> the windows to train on, where `train` is not simply read in shuffled windows:
        mixtures by weight, conversations.
    """

    name: str
    sha256: str
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    tokenizer: Path
    tokenizer_sha256: str
    tokenizer_counted: bool
    vocab: int
    bos: int
    speaker: Callable[[Path], Any]
    draw: Callable[[int, int], Any] | None = None


class DataSpec(Protocol):
    def open(self, cache: Path, sink: Sink) -> Corpus:
        """Find or prepare the corpus under `cache`. Called by one rank while the others wait."""
        ...


# ----------------------------------------------------------------------------------------------- training


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training hands on. `average` holds the EMA of every floating tensor, float32, on the CPU or the
    device it was trained on; `seconds` is the timed loop on the slowest rank."""

    average: dict[str, Tensor]
    steps: int
    tokens: int
    supervised: int  # of these, the ones that were targets: all, but in conversations
    seconds: float
    loss: float
    stopped: str  # "steps" | "seconds": which limit ended the loop


# --------------------------------------------------------------------------------------------- quantization


@dataclass
class Hessians:
    """Mean of x xT over calibration tokens, by parameter name, float32 [K, K]."""

    by_name: dict[str, Tensor]
    tokens: int


@dataclass(frozen=True)
class QTensor:
    """One tensor as it is stored: plain arrays, so that packing never asks what they mean.

    method: how it was made ("gptq", "nearest", "keep"), which also says how to read it back.
    parts: integer or float16/float32 arrays by name ("codes", "scale", "value").
    alphabets: for integer parts, the number of values a symbol can take, which are
        -(alphabet // 2) .. alphabet - 1 - alphabet // 2.
    """

    shape: tuple[int, ...]
    method: str
    parts: dict[str, np.ndarray]
    alphabets: dict[str, int] = field(default_factory=dict)
    role: str = Role.MATRIX.value


# -------------------------------------------------------------------------------------------------- packing


@dataclass(frozen=True)
class Stream:
    """Symbols of one kind in a row. Integer symbols have an alphabet; raw float data has alphabet 0.

    symbols: 1-D array (int8 / int16 for integers, uint8 bytes for raw data).
    width: symbols per weight row, so that a codec may model columns (0: no rows).
    heights: rows of each matrix, where a codec may care which columns belong together; written down by it if so.
    """

    symbols: np.ndarray
    alphabet: int
    width: int = 0
    heights: tuple[int, ...] = ()


class Codec(Protocol):
    """Lossless symbols to bytes and back. `name` is its key in `golf.pack.codecs`."""

    name: str

    def encode(self, stream: Stream) -> bytes: ...

    def decode(self, data: bytes, count: int, dtype: np.dtype, alphabet: int, width: int) -> np.ndarray:
        """Exactly `count` symbols. Raises ArtifactError on anything else."""
        ...


@dataclass(frozen=True)
class ByteLedger:
    """What is counted against the cap, in bytes. `tokenizer` is None when a stock one is shown, not counted."""

    code: int
    blob: int
    cap: int
    tokenizer: int = 0
    tokenizer_shown: int = 0

    @property
    def total(self) -> int:
        return self.code + self.blob + self.tokenizer

    @property
    def headroom(self) -> int:
        return self.cap - self.total

    def check(self) -> None:
        """Raises BudgetError when the total is over the cap."""
        if self.headroom < 0:
            raise BudgetError(
                f"artifact is {self.total:,} bytes, {-self.headroom:,} over the {self.cap:,} cap (blob {self.blob:,} + "
                f"code {self.code:,} + tokenizer {self.tokenizer:,}); coarsen a grid in QuantSpec or narrow the model"
            )


# -------------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True)
class Score:
    """Summed over scored tokens; ranks and shards just add up."""

    nats: float
    tokens: int
    bytes: int

    def __add__(self, other: Score) -> Score:
        return Score(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    @property
    def bpb(self) -> float:
        """Bits per byte of the text the scored tokens spell."""
        return self.nats / math.log(2) / self.bytes

    @property
    def loss(self) -> float:
        """Mean nats per token."""
        return self.nats / self.tokens


class Evaluation(Protocol):
    """How a model is scored. `kind` is its key in `golf.eval.kinds` and names the number it gives.

    window: tokens that a prediction may look back on.
    fixed: the evaluation whose score is reported beside this one's because it does not adapt; this one itself
        where there is no adaptation.
    plain: windows without overlap, for a quick look.
    """

    kind: ClassVar[str]
    window: int

    @property
    def fixed(self) -> Evaluation: ...

    @property
    def plain(self) -> Evaluation: ...

    def tiny(self) -> Evaluation:
        """The same for a model trained on 64 tokens at once."""
        ...

    def score(
        self,
        model: torch.nn.Module,
        tokens: Sequence[int],
        table: ByteTable,
        *,
        host: Any = ...,
        sink: Sink = ...,
        report: Callable[[np.ndarray, np.ndarray], None] | None = None,
    ) -> Score:
        """Nats, count and bytes of t_1..t_N, each predicted once. `report` gets positions of targets and their
        nats (float32), on the rank and in the order in which they are scored."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run proves, as written to `result.json`. Times in seconds, losses in nats per token, scores in bits
    per byte. The first seven names are spelled as the challenge's `submission.json` spells them.

    val_bpb: the recipe's evaluation of the model read back from the artifact file; eval_kind says which kind that
        is ("sliding" windows, a "rolling" cache, or one that adapts). Kinds are never compared as if one.
    val_bpb_fixed: the same model by the same windows without adaptation; val_bpb itself where nothing adapts.
    val_bpb_unquantized: the averaged weights before quantization under the windows of val_bpb_fixed, so that the
        difference between these two is the quantization tax.
    val_bpb_roundtrip: the read-back model on plain windows without overlap.
    supervised_tokens: those of `train_tokens` whose prediction was trained; fewer where conversations mask some.
    train_seconds: the timed loop plus everything after it that reads training data (Hessians).
    eval_seconds: from opening the artifact to the final number.
    weights_sha256: of weights.safetensors, the averaged weights that the artifact was made of.
    """

    val_loss: float
    val_bpb: float
    bytes_total: int
    bytes_code: int
    bytes_model: int
    seed: int
    track: str
    val_bpb_unquantized: float
    val_bpb_roundtrip: float
    steps: int
    train_seconds: float
    quantize_seconds: float
    eval_seconds: float
    parameters: int
    recipe_digest: str
    corpus_sha256: str
    tokens_scored: int
    bytes_scored: int
    versions: dict[str, str]
    bytes_cap: int
    bytes_tokenizer: int
    tokenizer_sha256: str
    tokenizer_counted: bool
    corpus: str
    train_tokens: int
    supervised_tokens: int
    stopped: str
    scale_multiplier: float
    artifact_sha256: str
    hardware: str
    eval_kind: str = "sliding"
    val_bpb_fixed: float | None = None
    weights_sha256: str = ""


# --------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True)
class Event:
    """Something that happened, as plain values: `Event("step", {"step": 7, "loss": 3.1})`."""

    kind: str
    values: Mapping[str, Any]


Sink = Callable[[Event], None]


def emit(sink: Sink, kind: str, **values: Any) -> None:
    """Spell an event the short way."""
    sink(Event(kind, values))


def quiet(event: Event) -> None:
    """A sink for those who do not listen."""


def named_hooks(model: torch.nn.Module) -> Iterable[tuple[str, Hooked]]:
    """(parameter name, layer) of every layer of the model that carries hooks; a shared layer comes once."""
    for name, module in model.named_modules():
        if isinstance(module, Hooked):
            yield f"{name}.weight", module
