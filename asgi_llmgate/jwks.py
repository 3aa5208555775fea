"""The public keys of who signs logins: fetched rarely, kept long, bounded.

Source: RFC 7517 (JSON Web Key).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import urlsplit

from asgi_llmgate.core.json import JSONError, loads
from asgi_llmgate.errors import ConfigurationError, OverloadedError

__all__ = ["KeySet"]

logger = logging.getLogger("asgi_llmgate.auth")

# Keys are published some time before they are used, so a day old set rarely lacks one.
KEEP_S = 3600.0
# An unknown key id may be a new one or an invented one; invented ones must cost nothing.
RETRY_S = 30.0
MAX_BYTES = 256 * 1024
MAX_KEYS = 100
TIMEOUT_S = 5.0
KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""Beginning of an algorithm's name to the type of its keys."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class KeySet:
    """The keys at `url`, by key id. One fetch at a time; at most one in 30 s.

    Keys stay in use while `url` cannot be reached. Nothing is fetched before the first `find`.

    Raises:
        ConfigurationError: `url` is not https (or http on this machine).
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        is_local = parts.scheme == "http" and parts.hostname in LOOPBACK
        if parts.scheme != "https" and not is_local:
            raise ConfigurationError(
                f"jwt: {url!r} is not https: somebody in between could exchange the keys.\n"
                "HINT: use https; http goes for this machine only."
            )
        self._url = url
        self._keys: dict[str | None, dict[str, Any]] = {}
        self._fetched_s: float | None = None
        self._tried_s: float | None = None
        self._lock = asyncio.Lock()
        self.fetches = 0

    async def find(self, kid: str | None, algorithm: str, *, now_s: float) -> Any:
        """Return the key to verify with; None if there is none for that id and algorithm.

        Raises:
            OverloadedError: no keys could be had at all.
        """
        if self._is_due(kid, now_s):
            async with self._lock:
                if self._is_due(kid, now_s):
                    await self._fetch(now_s)
        if not self._keys:
            raise OverloadedError(
                "Logins cannot be verified now. Try again later.", retry_after_s=5
            )
        # A set of one key needs no ids.
        entry = self._keys.get(kid)
        if entry is None and kid is None and len(self._keys) == 1:
            entry = next(iter(self._keys.values()))
        return _key(entry, algorithm) if entry is not None else None

    def _is_due(self, kid: str | None, now_s: float) -> bool:
        if self._tried_s is not None and now_s - self._tried_s < RETRY_S:
            return False
        is_old = self._fetched_s is None or now_s - self._fetched_s > KEEP_S
        return is_old or (kid is not None and kid not in self._keys)

    async def _fetch(self, now_s: float) -> None:
        import httpx

        self._tried_s = now_s
        self.fetches += 1
        try:
            async with (
                httpx.AsyncClient(
                    timeout=TIMEOUT_S, follow_redirects=False, trust_env=False
                ) as client,
                asyncio.timeout(2 * TIMEOUT_S),
                client.stream("GET", self._url) as answer,
            ):
                if answer.status_code != 200:
                    raise ValueError(f"status {answer.status_code}")
                body = b""
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise ValueError("too large")
            self._keys = _read_keys(body)
            self._fetched_s = now_s
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            logger.error("The keys at %s could not be fetched: %s", self._url, error)


def _read_keys(body: bytes) -> dict[str | None, dict[str, Any]]:
    """Return the keys of a set that may verify signatures, by id.

    Raises:
        ValueError: it is no key set.
    """
    try:
        found = loads(body)
    except JSONError as error:
        raise ValueError(f"no JSON: {error}") from None
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no `keys`")
    keys = {
        entry.get("kid"): entry
        for entry in listed[:MAX_KEYS]
        # A symmetric key has no business on a public page.
        if isinstance(entry, dict) and entry.get("kty") in KINDS.values()
        if entry.get("use", "sig") == "sig" and isinstance(entry.get("kid"), str | None)
    }
    if not keys:
        raise ValueError("no key that can verify a signature")
    return keys


def _key(entry: dict[str, Any], algorithm: str) -> Any:
    """Return the key of `entry`; None if it is not one for `algorithm`."""
    import jwt as pyjwt

    if entry["kty"] != KINDS.get(algorithm[:2]) or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        return pyjwt.PyJWK.from_dict(entry, algorithm).key
    except (pyjwt.PyJWTError, ValueError, TypeError):
        return None  # Broken, or of a kind that this version does not know.
