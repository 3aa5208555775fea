"""Decide where a client's request goes: gateway A, gateway B, the provider itself.

No I/O. An endpoint is left for a while when it cannot be reached, or says itself that it failed
(`LLMGate-Error: gateway` on 502, 503, 504). What a provider says, and what a gateway denies, is an
answer. A route that is guarded never goes past the gateways.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from asgi_llmgate.core.breaker import Breaker, BreakerPolicy, State, Ticket
from asgi_llmgate.core.json import JSONError, dumps, loads

__all__ = ["Direct", "Endpoint", "Endpoints", "Sent", "stripped_path"]

POLICY = BreakerPolicy(failures=3, least_calls=20, open_s=5.0, max_open_s=60.0, jitter=0.2)

FAILED = frozenset({502, 503, 504})

CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
OURS = (b"llmgate-", b"helicone-")


@dataclass(frozen=True, slots=True)
class Direct:
    """The provider itself, for when no gateway answers.

    Args:
        base_url: With the version, as the provider's own SDK has it.
        api_key: The provider's key. None sends the one of the request, unless it is a gateway's.
        models: What the gateway's names of models (aliases) are called there.
        provider: Its id, for the record.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)
    models: Mapping[str, str] = field(default_factory=dict)
    provider: str | None = None


@dataclass(slots=True)
class Endpoint:
    """One place a request may go; `direct` is set for the last resort."""

    base_url: str
    direct: Direct | None = None
    breaker: Breaker = field(default_factory=lambda: Breaker(POLICY))


@dataclass(frozen=True, slots=True)
class Sent:
    """The request as an endpoint gets it. `headers` are without Host and Content-Length."""

    url: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Endpoints:
    """Where requests go, and what is known of it. Thread-safe."""

    def __init__(
        self,
        gateways: Sequence[str],
        direct: Direct | None,
        guarded: bool | Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not gateways:
            raise ValueError("name at least one gateway")
        self.gateways = [Endpoint(url.rstrip("/")) for url in gateways]
        self._direct = None if direct is None else Endpoint(direct.base_url.rstrip("/"), direct)
        self._guarded = guarded
        self._clock = clock
        self._lock = threading.Lock()
        self.guarded_paths: set[str] = set()

    def order(self, path: str) -> list[tuple[Endpoint, Ticket]]:
        """Return where to try a request for `path`, in order. Every ticket must be handed back.

        Never empty: where nothing is admitted and nothing may go direct, the first gateway is asked
        in spite of what is known of it.
        """
        now_s = self._clock()
        with self._lock:
            admitted = [
                (endpoint, ticket)
                for endpoint in self.gateways
                if (ticket := endpoint.breaker.admit(now_s)) is not None
            ]
        if self._direct is not None and not self.is_guarded(path):
            admitted.append((self._direct, Ticket(0)))
        return admitted or [(self.gateways[0], Ticket(0))]

    def is_guarded(self, path: str) -> bool:
        if path in self.guarded_paths:
            return True
        return self._guarded if isinstance(self._guarded, bool) else self._guarded(path)

    def record(
        self, endpoint: Endpoint, ticket: Ticket, *, is_good: bool | None, is_dead: bool = False
    ) -> None:
        """Note what came of it. `is_dead` opens at once: nobody listens there."""
        now_s, roll = self._clock(), random.random()  # noqa: S311 -- jitter
        with self._lock:
            breaker = endpoint.breaker
            breaker.record(ticket, is_good=is_good, now_s=now_s, roll=roll)
            if is_dead and breaker.state is State.CLOSED:
                breaker.trip(now_s, roll)

    def has_failed(self, status: int, headers: Mapping[str, str]) -> bool:
        """Tell whether an answer says that the gateway itself failed."""
        return status in FAILED and headers.get("llmgate-error") == "gateway"

    def relative(self, url: str) -> str:
        """Return path and query of `url` below whichever base it was made with."""
        parts = urlsplit(url)
        known = [*self.gateways, *([self._direct] if self._direct is not None else [])]
        path = parts.path
        for endpoint in known:
            base = urlsplit(endpoint.base_url)
            if base.netloc == parts.netloc and f"{path}/".startswith(f"{base.path}/"):
                path = path[len(base.path) :] or "/"
                break
        return f"{path}?{parts.query}" if parts.query else path

    def request_to(
        self, endpoint: Endpoint, relative: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> Sent:
        """Return the request as `endpoint` gets it."""
        kept = [
            (name, value)
            for name, value in headers
            if name.lower() not in (b"host", b"content-length", b"transfer-encoding")
        ]
        if endpoint.direct is None:
            return Sent(joined(endpoint.base_url, relative), kept, body)
        direct = endpoint.direct
        found = [(name, value) for name, value in kept if name.lower() in CREDENTIALS]
        kept = [
            (name, value)
            for name, value in kept
            if name.lower() not in CREDENTIALS
            and not name.lower().startswith(OURS)
            and name.lower() != b"cookie"
        ]
        kept += _credential(direct, found)
        url = joined(endpoint.base_url, _without_key(relative, direct))
        return Sent(url, kept, _renamed(body, direct.models))


def joined(base_url: str, relative: str) -> str:
    """Append `relative` to `base_url`; a version that both have stands once."""
    last = base_url.rpartition("/")[2]
    path = relative if relative.startswith("/") else f"/{relative}"
    if last and path.startswith(f"/{last}/") and "." not in last and ":" not in last:
        path = path[len(last) + 1 :]
    return base_url + path


def stripped_path(relative: str) -> str:
    return relative.partition("?")[0]


def _credential(direct: Direct, found: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the header with the provider's key, in the form in which the SDK sent one."""
    name = found[0][0].lower() if found else b"authorization"
    if direct.api_key is not None:
        prefix = b"Bearer " if name == b"authorization" else b""
        return [(name, prefix + direct.api_key.encode())]
    return [
        (name, value)
        for name, value in found
        if not value.removeprefix(b"Bearer ").startswith(b"lg_")
    ]


def _without_key(relative: str, direct: Direct) -> str:
    path, mark, query = relative.partition("?")
    if not mark:
        return relative
    kept = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name == "key" and (direct.api_key is not None or value.startswith("lg_")):
            continue
        kept.append(pair)
    return f"{path}?{'&'.join(kept)}" if kept else path


def _renamed(body: bytes, models: Mapping[str, str]) -> bytes:
    if not models:
        return body
    try:
        request: Any = loads(body)
    except JSONError:
        return body
    if not isinstance(request, dict) or request.get("model") not in models:
        return body
    return dumps({**request, "model": models[request["model"]]})
