"""Virtual keys as auth sees them: verified once, remembered, forgotten within a second.

A key that was verified is remembered by the HMAC of its whole token, never by a part of it. For
up to a minute it is not looked up again, unless the store says that it changed: before a call is
decided, the store is asked for changes if the last answer is older than 0.4 s, and nothing is
decided on an answer older than 0.8 s. Calls do the asking, so an idle gateway does nothing and no
task outlives its question.

When the store is down, keys that were verified go on working for five minutes; those never seen
are refused, for letting strangers in would be worse.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from asgi_llmgate.core.key_check import KnownKey, TokenDigests, known_key
from asgi_llmgate.core.virtual_keys import kid_in
from asgi_llmgate.errors import AuthenticationError, BackendError, OverloadedError
from asgi_llmgate.middleware._strangers import Strangers
from asgi_llmgate.protocols import KeyStore
from asgi_llmgate.types import KeySecret, Principal

__all__ = ["Keyring", "unavailable"]

logger = logging.getLogger("asgi_llmgate.auth")

T = TypeVar("T")

# A first call can wait this long for its key to be found; the store may be on another machine.
LOOK_UP_S = 2.0
# While secret keys are exchanged, gateways that disagree on which is in force run side by side;
# each moves a key this seldom, so that they do not write in turns.
MOVE_EVERY_S = 600.0
MAX_KNOWN = 50_000


@dataclass(slots=True)
class _Entry:
    key: KnownKey
    confirmed_at: float


class Keyring:
    """Says whose virtual key a token is.

    Args:
        store: Where keys are kept. Yours to close.
        secrets: From which digests derive: the one in force first, then those before it.
        ttl_s: A key is looked up again after this.
        grace_s: A key that was verified works this long without the store.
        poll_s: Changes are asked for this often; none is noticed later than twice that.
        patience_s: How long a call waits for the store to tell changes.
        clock, wall: Monotonic seconds, and seconds since the epoch.
    """

    def __init__(
        self,
        store: KeyStore,
        secrets: Sequence[bytes],
        *,
        ttl_s: float = 60.0,
        grace_s: float = 300.0,
        poll_s: float = 0.4,
        patience_s: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._digests = TokenDigests(secrets)
        self.ttl_s, self.grace_s, self.poll_s = ttl_s, grace_s, poll_s
        self._patience_s = patience_s
        self._clock, self._wall = clock, wall
        self._known: dict[bytes, _Entry] = {}
        self._strangers = Strangers(ttl_s, clock())
        self._moved_at: dict[bytes, float] = {}
        self._version: int | None = None
        self._has_keys = False
        self._imported: frozenset[str] = frozenset()
        self._asked_at = -1e9  # When the last question that was answered was put.
        self._failed_at: float | None = None
        self._polling: asyncio.Task[None] | None = None
        self._look_ups: dict[bytes, asyncio.Task[KnownKey | None]] = {}

    @property
    def has_keys(self) -> bool:
        """Whether there is or was a key in the store, as of the last `refresh`."""
        return self._has_keys

    async def refresh(self) -> None:
        """Learn what changed, if that was not asked for just now.

        Raises:
            OverloadedError: the store has never answered.
        """
        now = self._clock()
        if now - self._asked_at < self.poll_s:
            return
        polling = _alive(self._polling)
        if polling is None:
            if self._failed_at is not None and now - self._failed_at < 1:
                self._must_have_started()
                return
            polling = self._polling = asyncio.create_task(self._poll())
        is_current = now - self._asked_at < 2 * self.poll_s
        if self._version is not None and (is_current or self._failed_at is not None):
            return  # While the store is down, nobody waits for it.
        patience_s = self._patience_s if self._version is not None else 10.0
        try:
            await asyncio.wait_for(asyncio.shield(polling), patience_s)
        except TimeoutError:
            self._note_failure("it does not answer")
        self._must_have_started()

    def may_be(self, token: str) -> bool:
        """Tell whether `token` is a key that was made elsewhere and imported here."""
        if not self._imported:
            return False
        return any(digest.hex() in self._imported for digest in self._digests.all(token).values())

    async def find(self, token: str) -> Principal | None:
        """Return whose key it is; None if it is nobody's.

        Raises:
            AuthenticationError: it was one (`key_expired`, `key_revoked`).
            OverloadedError: the store is down, and the key was not seen before.
        """
        digest = self._digests.current(token)
        entry = self._known.get(digest)
        if entry is not None and self._holds(entry):
            key: KnownKey | None = entry.key
        else:
            key = await self._look_up(token, digest)
        return None if key is None else self._admitted(key)

    async def aclose(self) -> None:
        """End what is under way."""
        tasks = [self._polling, *self._look_ups.values()]
        for task in tasks:
            if (alive := _alive(task)) is not None:
                alive.cancel()

    def _holds(self, entry: _Entry) -> bool:
        now = self._clock()
        if now - entry.confirmed_at < self.ttl_s:
            return True
        # An answer that named no change of this key confirmed it as well.
        confirmed_at = max(entry.confirmed_at, self._asked_at)
        return self._failed_at is not None and now - confirmed_at < self.grace_s

    def _admitted(self, key: KnownKey) -> Principal:
        if key.is_revoked:
            raise AuthenticationError(
                "This key was revoked. Ask the operator for another.", code="key_revoked"
            )
        if key.expires_at_s is not None and key.expires_at_s <= self._wall():
            raise AuthenticationError(
                "This key has expired. Ask the operator for another.", code="key_expired"
            )
        return key.principal

    async def _look_up(self, token: str, digest: bytes) -> KnownKey | None:
        self._must_have_started()
        handle = kid_in(token)
        if handle is None and (token.startswith("lg_") or not self.may_be(token)):
            return None  # Made up or cut off: the store need not be asked.
        now = self._clock()
        if self._strangers.was_refused(digest, now):
            return None
        is_down = self._failed_at is not None and now - self._failed_at < 1
        if is_down or (digest not in self._known and not self._strangers.may_be_asked_for(now)):
            raise unavailable()
        task = _alive(self._look_ups.get(digest))
        if task is None:
            # One for all calls that come with this key at the moment.
            task = asyncio.create_task(self._asked(token, digest, handle))
            self._look_ups[digest] = task
            task.add_done_callback(lambda done: self._forget(digest, done))
        try:
            return await asyncio.wait_for(asyncio.shield(task), LOOK_UP_S)
        except (BackendError, TimeoutError) as error:
            self._note_failure(str(error) or "it does not answer")
            entry = self._known.get(digest)
            if entry is not None and self._holds(entry):
                return entry.key
            raise unavailable() from None

    def _forget(self, digest: bytes, task: asyncio.Task[KnownKey | None]) -> None:
        if self._look_ups.get(digest) is task:
            del self._look_ups[digest]
        if not task.cancelled():
            task.exception()  # Whoever waits has it; if nobody does any more, nobody need hear.

    async def _asked(self, token: str, digest: bytes, handle: str | None) -> KnownKey | None:
        version, now = self._version, self._clock()
        digests = self._digests.all(token)
        if handle is None:
            handle = next(
                (each.hex() for each in digests.values() if each.hex() in self._imported), ""
            )
        key = known_key(await self._store.find(handle), digests)
        if key is None:
            self._strangers.count()
        if version != self._version:
            return key  # It may have been read before a change that is known by now.
        if key is None:
            self._strangers.refuse(digest, now)
            return None
        _remember(self._known, digest, _Entry(key, now), MAX_KNOWN)
        if key.matched.secret_id != self._digests.current_id:
            await self._move(key, digest)
        return key

    async def _move(self, key: KnownKey, digest: bytes) -> None:
        """Keep the digest under the secret in force, so that the old one can be retired."""
        now = self._clock()
        if now - self._moved_at.get(digest, -MOVE_EVERY_S) < MOVE_EVERY_S:
            return
        _remember(self._moved_at, digest, now, MAX_KNOWN)
        old = key.matched
        handle = old.handle if old.handle == key.principal.id else digest.hex()
        new = KeySecret(handle, digest, self._digests.current_id)
        try:
            await self._store.replace_digest(key.principal.id, old, new)
        except BackendError as error:
            logger.warning("key %s stays under the old secret: %s", key.principal.id, error)

    async def _poll(self) -> None:
        asked_at = self._clock()
        try:
            changes = await self._store.changes(self._version)
        except BackendError as error:
            self._note_failure(str(error))
            return
        if self._failed_at is not None:
            logger.info("Keys: the store answers again")
        self._asked_at, self._failed_at = asked_at, None
        if changes is None:
            return
        self._version, self._has_keys = changes.version, changes.has_keys
        self._imported = changes.imported
        self._strangers.clear()
        if changes.kids is None:
            self._known.clear()
        elif changes.kids:
            self._known = {
                digest: entry
                for digest, entry in self._known.items()
                if changes.kids.isdisjoint(entry.key.kids)
            }

    def _note_failure(self, reason: str) -> None:
        if self._failed_at is None:
            logger.error(
                "Keys: the store is down (%s). Keys seen before work for %.0f s more, others are "
                "refused.",
                reason,
                self.grace_s,
            )
        self._failed_at = self._clock()

    def _must_have_started(self) -> None:
        if self._version is None:
            raise unavailable()


def _alive(task: asyncio.Task[T] | None) -> asyncio.Task[T] | None:
    """Return `task` if it is under way in this event loop."""
    if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
        return None
    return task


K = TypeVar("K")


def _remember(memory: dict[bytes, K], digest: bytes, value: K, most: int) -> None:
    memory[digest] = value
    if len(memory) > most:
        del memory[next(iter(memory))]


def unavailable() -> OverloadedError:
    """Return what callers are told whom nobody can tell from strangers."""
    return OverloadedError("Authentication is unavailable. Try again later.", retry_after_s=1)
