"""The phone book of codecs: names as written in artifacts, resolved on first use."""

from __future__ import annotations

import importlib

from golf.contracts import ArtifactError, Codec

CODECS = {"zstd": "golf.pack.zstd:Zstd", "xz": "golf.pack.xz:Xz", "rans": "golf.pack.rans:Rans"}


def codec(name: str) -> Codec:
    """The codec behind a name from a file. What a stream needs to be read is in the stream and the container's
    header, never in the settings it was written with. Raises ArtifactError for an unknown name."""
    if name not in CODECS:
        raise ArtifactError(f"codec {name!r} is none of {', '.join(CODECS)}; read the file with a newer golf")
    module, _, attribute = CODECS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()
