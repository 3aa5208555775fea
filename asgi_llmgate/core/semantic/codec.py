"""A label as bytes, for stores.

1 version · 1 flags · 8 made_us · 4 weight · 4 similarity · 1 length of alias · 2 length of
answer · 1 number of features · alias · answer · features as 2-byte floats
"""

from __future__ import annotations

import math
import struct

from asgi_llmgate.core.semantic.features import MADE_OF
from asgi_llmgate.core.semantic.label import Label, Source

__all__ = ["decode_label", "encode_label"]

# Raised whenever `features.NAMES` changes.
VERSION = 2

_HEAD = struct.Struct(">BBqffBHB")
_FEATURES = struct.Struct(f">{MADE_OF}e")
_SOURCES = tuple(Source)
_RIGHT = 0x80
# The largest that 2 bytes hold.
_MAX = 65_504.0


def encode_label(label: Label) -> bytes:
    """Raises ValueError: its features are not those of this version."""
    if len(label.features) != MADE_OF:
        raise ValueError(f"a label has {MADE_OF} features, not {len(label.features)}")
    alias, answer = label.alias.encode(), label.answer.encode()
    head = _HEAD.pack(
        VERSION,
        _SOURCES.index(label.source) | (_RIGHT if label.is_right else 0),
        label.made_us,
        label.weight,
        label.similarity,
        len(alias),
        len(answer),
        MADE_OF,
    )
    features = [max(-_MAX, min(_MAX, value)) for value in label.features]
    return head + alias + answer + _FEATURES.pack(*features)


def decode_label(encoded: bytes) -> Label | None:
    """Return the label; None for garbage, or what another version wrote."""
    try:
        version, flags, made_us, weight, similarity, alias, answer, count = _HEAD.unpack_from(
            encoded
        )
        at = _HEAD.size
        if version != VERSION or count != MADE_OF:
            return None
        features = _FEATURES.unpack(encoded[at + alias + answer :])
        label = Label(
            features=features,
            is_right=bool(flags & _RIGHT),
            weight=weight,
            source=_SOURCES[flags & ~_RIGHT],
            alias=encoded[at : at + alias].decode(),
            answer=encoded[at + alias : at + alias + answer].decode(),
            similarity=similarity,
            made_us=made_us,
        )
    except (struct.error, IndexError, UnicodeDecodeError):
        return None
    if not all(map(math.isfinite, (*features, weight, similarity))) or weight <= 0:
        return None
    return label
