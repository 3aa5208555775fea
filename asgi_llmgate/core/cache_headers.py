"""What a caller is told of the cache. Source: RFC 9211 (Cache-Status), RFC 9111 §5.1 (Age)."""

from __future__ import annotations

from collections.abc import Iterable

from asgi_llmgate.types import CacheStatus

__all__ = ["cache_headers", "followers_headers"]

RawHeaders = list[tuple[bytes, bytes]]

# What somebody may see of an answer that was begun for somebody else.
_FOR_FOLLOWERS = frozenset(
    {b"content-type", b"content-length", b"content-encoding", b"retry-after", b"x-accel-buffering"}
)


def cache_headers(
    status: CacheStatus,
    *,
    reason: str | None,
    key: str | None,
    ttl_s: int | None = None,
    age_s: int | None = None,
    slot: int | None = None,
    similarity: float | None = None,
    is_collapsed: bool = False,
    for_helicone: bool = False,
) -> RawHeaders:
    """Return the headers for an answer.

    Args:
        reason: In our own words: printable ASCII without quotes.
        ttl_s: How long the answer will still be given; negative if it is past its time.
        slot: Which of several answers it is, where the caller asked for several.
        similarity: Cosine with the nearest question that was asked before.
    """
    is_hit = status in (CacheStatus.HIT, CacheStatus.STALE)
    told = ["llmgate"]
    if is_hit:
        told.append("hit")
        if ttl_s is not None:
            told.append(f"ttl={ttl_s}")
    elif status is CacheStatus.BYPASS:
        told.append("fwd=bypass")
    else:
        told.append("fwd=request" if reason == "no-cache" else "fwd=miss")
        if is_collapsed:
            told.append("collapsed")
    if key is not None:
        told.append(f'key="{key}"')
    if reason is not None:
        told.append(f'detail="{reason}"')
    hit = b"true" if is_hit else b"false"
    headers = [
        (b"cache-status", "; ".join(told).encode()),
        (b"llmgate-cache", status.value.encode()),
        (b"llmgate-cache-hit", hit),
    ]
    if age_s is not None:
        headers.append((b"age", b"%d" % age_s))
    if slot is not None:
        headers.append((b"llmgate-cache-bucket-idx", b"%d" % slot))
    if similarity is not None:
        headers.append((b"llmgate-cache-similarity", b"%.4f" % similarity))
    if for_helicone:
        # Helicone knows two words.
        headers.append((b"helicone-cache", b"HIT" if is_hit else b"MISS"))
        headers.append((b"helicone-cache-hit", hit))
        if slot is not None:
            headers.append((b"helicone-cache-bucket-idx", b"%d" % slot))
    return headers


def followers_headers(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """Return what goes along to somebody who joined: no cookie, no limit, no id of another's."""
    return [(name, value) for name, value in headers if name.lower() in _FOR_FOLLOWERS]
