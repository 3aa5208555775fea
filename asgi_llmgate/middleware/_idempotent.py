"""What workers tell each other about an `Idempotency-Key`, through the store of the cache.

    slot 0   the answer, for ten minutes
    slot 1   which request is being answered, for whoever finds the lease taken

Entries are signed, as those of the cache are. The lease is given back when the answer is stored, or
will not be; it expires with the worker that has it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.types import Message

from asgi_llmgate.core.cache_entry import Entry, decode_entry, encode_entry
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.json import JSONError, dumps, loads
from asgi_llmgate.errors import BackendError
from asgi_llmgate.middleware._lease import Lease
from asgi_llmgate.protocols import CacheStore

__all__ = ["Answered", "SharedAnswers", "Taken"]

logger = logging.getLogger("asgi_llmgate")

ANSWER, CLAIM = 0, 1
PARTITION = "idempotency"

LEASE_S = 5.0
FIRST_POLL_S = 0.02
LAST_POLL_S = 0.2

_HEAD = struct.Struct(">HI")


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that another worker gave. `digest` is that of the request."""

    digest: bytes
    messages: list[Message]
    call_id: str
    left_s: float


@dataclass(frozen=True, slots=True)
class Taken:
    """Another worker is answering a request with this digest."""

    digest: bytes


class SharedAnswers:
    """See the module's docstring.

    Args:
        store: Used only if other processes use it, too.
        secret: Keys and entries are signed with it.
        kept_s: How long an answer is given again.
    """

    def __init__(
        self,
        store: CacheStore,
        secret: bytes,
        *,
        kept_s: float,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._store = store
        self._secret = secret
        self._kept_s = kept_s
        self._clock_us = clock_us

    def key_of(self, tenant: str, key: bytes) -> CacheKey:
        told = b"idempotency\0%d\0%s\0%s" % (len(tenant.encode()), tenant.encode(), key)
        return CacheKey(hmac.digest(self._secret, told, "sha256").hex())

    async def claim(self, key: CacheKey, digest: bytes) -> Lease | Answered | Taken | None:
        """Wait for the right to answer, or for somebody else's answer.

        Returns a lease to be given to `keep` or released; None if the store fails, so that nobody
        knows. `Taken` only if that is another request: the same one is waited for.
        """
        lease = Lease(self._store, key, ttl_s=LEASE_S, complain=_complain)
        pause_s = FIRST_POLL_S
        try:
            while True:
                # In this order: who had the lease stored his answer before he gave it back.
                has_lease = await lease.acquire()
                found = await self._read(key)
                if isinstance(found, Answered):
                    await lease.release()
                    return found
                if has_lease:
                    await self._write(key, CLAIM, digest, b"", "")
                    return lease
                if found is not None and found.digest != digest:
                    return found
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, LAST_POLL_S)
        except BackendError as error:
            _complain("Idempotency keys are not shared by workers at the moment", error)
            await lease.release()
            return None
        except BaseException:
            await lease.release()
            raise

    async def keep(
        self, lease: Lease, key: CacheKey, digest: bytes, messages: Sequence[Message], call_id: str
    ) -> None:
        """Store an answer for the other workers."""
        try:
            await self._write(key, ANSWER, digest, _packed(messages), call_id)
        except BackendError as error:
            _complain("The answer to an idempotent call was not stored", error)
        finally:
            await lease.release()

    async def _write(
        self, key: CacheKey, slot: int, digest: bytes, body: bytes, call_id: str
    ) -> None:
        now_us = self._clock_us()
        entry = Entry(
            created_us=now_us,
            expires_us=now_us + int(self._kept_s * 1e6),
            generations={},
            form="answer" if slot == ANSWER else "claim",
            body=digest + body,
            wire_format=PARTITION,
            original_id=call_id,
        )
        value = encode_entry(self._secret, key, entry)
        await self._store.write(key, slot, value, partition=PARTITION, ttl_s=self._kept_s)

    async def _read(self, key: CacheKey) -> Answered | Taken | None:
        values, _ = await self._store.read(key, slots=2, names=())
        answer = self._entry(key, values[ANSWER], "answer")
        if answer is not None:
            messages = _unpacked(answer.body[32:])
            left_s = (answer.expires_us - self._clock_us()) / 1e6
            if messages is not None and left_s > 0:
                return Answered(answer.body[:32], messages, answer.original_id, left_s)
        claim = self._entry(key, values[CLAIM], "claim")
        return None if claim is None else Taken(claim.body[:32])

    def _entry(self, key: CacheKey, value: bytes | None, form: str) -> Entry | None:
        entry = None if value is None else decode_entry(self._secret, key, value)
        if entry is None or entry.form != form or entry.wire_format != PARTITION:
            return None
        return entry


def _packed(messages: Sequence[Message]) -> bytes:
    start = messages[0]
    headers = [
        [name.decode("latin-1"), value.decode("latin-1")]
        for name, value in start.get("headers", ())
    ]
    told = dumps(headers)
    body = b"".join([message.get("body", b"") for message in messages[1:]])
    return _HEAD.pack(start["status"], len(told)) + told + body


def _unpacked(data: bytes) -> list[Message] | None:
    try:
        status, length = _HEAD.unpack_from(data)
        told = loads(data[_HEAD.size : _HEAD.size + length])
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told]
    except (struct.error, JSONError, ValueError, AttributeError, TypeError):
        return None
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": data[_HEAD.size + length :]},
    ]


def _complain(text: str, error: BackendError) -> None:
    logger.warning("%s: %s", text, error)
