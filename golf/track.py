"""Rule sets: what a record of a track may spend. Bytes are decimal, seconds are wall clock."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from golf.contracts import SpecError


@dataclass(frozen=True, kw_only=True)
class Track:
    """cap_bytes: code + blob (+ tokenizer, when the run trained it).  train_seconds: timed loop plus Hessians.
    eval_seconds: from opening the artifact to the final number.  None: no limit."""

    name: str
    cap_bytes: int
    train_seconds: float | None
    eval_seconds: float | None
    hardware: str

    def overruns(self, train_seconds: float, eval_seconds: float) -> list[str]:
        """One sentence for each clock that ran past its limit."""
        clocks = (("training", train_seconds, self.train_seconds), ("evaluation", eval_seconds, self.eval_seconds))
        return [
            f"{what} took {spent:.1f} s, {spent - limit:.1f} s over the {limit:.0f} s of track {self.name}"
            for what, spent, limit in clocks
            if limit is not None and spent > limit
        ]


TRACKS = {
    track.name: track
    for track in (
        Track(name="10min_16mb", cap_bytes=16_000_000, train_seconds=600, eval_seconds=600, hardware="8xH100 SXM"),
        Track(name="non_record_16mb", cap_bytes=16_000_000, train_seconds=None, eval_seconds=None, hardware="any"),
        # For models that are larger than any budget here: the cap is there to be reported, not to be met.
        Track(name="open", cap_bytes=10**12, train_seconds=None, eval_seconds=None, hardware="any"),
        Track(name="cpu_5min_1mb", cap_bytes=1_000_000, train_seconds=300, eval_seconds=180, hardware="2 CPU cores"),
    )
}


def find(name: str) -> Track:
    """The track of that name. Raises SpecError with the nearest names."""
    if name not in TRACKS:
        near = difflib.get_close_matches(name, TRACKS, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(TRACKS)}"
        raise SpecError(f"no track is named {name!r}; {hint}")
    return TRACKS[name]
