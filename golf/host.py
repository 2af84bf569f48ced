"""The machine golf runs on: rank, world, device, folders, atomic files. The only reader of environment variables."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import metadata
from pathlib import Path

# Read by libgomp when torch loads it. Spinning threads make a step several times slower as soon as anything else
# wants a core, and cost nothing to avoid.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.distributed as dist
from torch import Tensor

PACKAGES = ("torch", "numpy", "scipy", "sentencepiece", "zstandard", "safetensors")
# Packing 16 MB with a strong codec takes minutes on one rank while the others wait in a barrier.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h


@dataclass(frozen=True)
class Host:
    """One process of the job. With world == 1 every collective is the identity."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def compute_dtype(self) -> torch.dtype:
        """bf16 where the device is fast at it; a CPU is three times slower in bf16 than in fp32."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def hardware(self) -> str:
        """What the job runs on, in words."""
        if self.device.type == "cuda":
            return f"{self.world}x {torch.cuda.get_device_name(self.device)}"
        return f"{self.world}x {torch.get_num_threads()} CPU threads, {platform.machine()}"

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, value: float) -> float:
        """The maximum over ranks of a Python number; every rank gets the same one."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.item()

    def share(self, value: object) -> object:
        """Rank 0's picklable value on every rank (between ranks of one job only, never from a file)."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: object) -> list:
        """Every rank's picklable value, on every rank, in rank order (never from a file)."""
        if self.world == 1:
            return [value]
        box = [None] * self.world
        dist.all_gather_object(box, value)
        return box

    def synchronize(self) -> None:
        """Wait for the device, so that a clock read afterwards tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextmanager
def join() -> Iterator[Host]:
    """The host of this process; under torchrun it joins the process group and leaves it at the end.

    On a CPU whatever the process computes from then on repeats bit for bit with the same versions and threads.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        add_in_order()
    if world == 1:
        yield Host(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)
    try:
        yield Host(rank, world, device)
    finally:
        dist.destroy_process_group()


def add_in_order() -> None:
    """Have this process take every sum in one order: as many threads then come to the same bits each time.

    Without it threads race to add up the gradients of looked-up rows in a compiled graph. It costs a CPU nothing, but
    forces slow kernels on a GPU, where a run therefore repeats closely and not to the bit.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # the mode's other half guards against bugs, at a price


def rank() -> int:
    """The rank that the launcher gave this process, joined or not."""
    return int(os.environ.get("RANK", "0"))


def neighbor_environment(place: int, jobs: int) -> dict[str, str]:
    """The environment of the process number `place` of `jobs` side by side: its share of the cores, a GPU in turn."""
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    changed = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    if torch.cuda.device_count() > 1:
        changed["CUDA_VISIBLE_DEVICES"] = str(place % torch.cuda.device_count())
    return {**os.environ, **changed}


def with_threads(count: int) -> dict[str, str]:
    """The environment of a process that computes in `count` threads: sums are rounded as their parts are cut."""
    return {**os.environ, "OMP_NUM_THREADS": str(count)}


def eagerly() -> AbstractContextManager:
    """Compiled graphs run as they were written. Torch's compiler, which takes two seconds to load, stays unloaded."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def keep_memory() -> None:
    """Keep what is freed for the next request of its size, where the C library is glibc. It would hand large buffers
    back to the system and have them mapped and cleared anew: a fifth of a training step on a CPU."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def share_heap() -> None:
    """Let threads that are started from now on allocate from one heap, where the C library is glibc. Each would keep
    what it has freed to itself, and those that take turns would hold the memory of all."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(ctypes.c_int(M_ARENA_MAX), ctypes.c_int(1))


def give_back_memory() -> None:
    """Hand what has been freed to the system, where the C library is glibc: it keeps it for itself otherwise."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def cache_folder() -> Path:
    """Where prepared corpora live: $GOLF_CACHE, else golf/ in the user's cache folder."""
    chosen = os.environ.get("GOLF_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "golf"


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary name beside `path`, flush to disk, rename. A reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
