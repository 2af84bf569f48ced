"""How fast training text is searched for validation text, and in how much memory, whatever its length.

    python benchmarks/shingles.py [--train-tokens 200000000] [--val-tokens 48000000]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from golf.eval.validity import splits

BOS, DOCUMENT = 1, 950  # tokens a document of the challenge has on average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-tokens", type=int, default=200_000_000)
    parser.add_argument("--val-tokens", type=int, default=48_000_000)
    flags = parser.parse_args()
    draw = np.random.default_rng(0)
    val = draw.integers(4, 1024, flags.val_tokens, dtype=np.uint16)
    val[::DOCUMENT] = BOS
    piece = draw.integers(4, 1024, 1 << 22, dtype=np.uint16)
    words = splits.weights()
    begin = time.monotonic()
    held = splits.shingles(splits.split_documents(val, BOS), words)
    hashed = time.monotonic()
    print(f"{len(held.hashes):,} shingles of {flags.val_tokens:,} validation tokens in {hashed - begin:.1f} s")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    hit, _, read = splits.scan(held, (piece for _ in range(flags.train_tokens >> 22)), words)
    seconds = time.monotonic() - hashed
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{read:,} training tokens in {seconds:.1f} s, {read / seconds / 1e6:.1f} million a second, {hit.sum()} hits")
    print(f"peak memory {before:.0f} MB before the training text, {after:.0f} MB after it")


if __name__ == "__main__":
    main()
