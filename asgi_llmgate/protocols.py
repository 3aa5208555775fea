"""What the parts promise one another. Each promise is held by a contract test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from asgi_llmgate.core.budgets import Budget
from asgi_llmgate.core.cache_key import CacheKey
from asgi_llmgate.core.meters import Claim, Standing
from asgi_llmgate.core.semantic.alias import Alias, Neighbour, Vector
from asgi_llmgate.types import CallRecord, KeySecret, Principal, StoredKey, Usage

if TYPE_CHECKING:  # It brings form parsers and takes longer to import than all of ours.
    from starlette.requests import HTTPConnection

__all__ = [
    "Authenticate",
    "CacheRead",
    "CacheSize",
    "CacheStore",
    "Count",
    "Embedder",
    "IndexSize",
    "KeyChanges",
    "KeyStore",
    "LabelStore",
    "LabelsRead",
    "LimitStore",
    "LogSink",
    "Price",
    "RawHeaders",
    "Sign",
    "Taken",
    "Timeouts",
    "Upstream",
    "UpstreamRequest",
    "UpstreamResponse",
    "VectorIndex",
]

RawHeaders = list[tuple[bytes, bytes]]
"""Header names in lower case, in order, repeats kept, as ASGI has them."""


class Authenticate(Protocol):
    """Say who is calling, by the host application's own login.

    Return None if this login has nothing to say; raise `AuthenticationError` if it was tried
    and is wrong. The first answer wins. May be sync or async.
    """

    def __call__(
        self, request: HTTPConnection, /
    ) -> Principal | Awaitable[Principal | None] | None: ...


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """What became of the keys in a store since it was last asked.

    Args:
        version: Of the store now; grows with every change.
        kids: The keys that changed; None if any may have.
        has_keys: There is or was a key, so callers without one are strangers.
        imported: Handles of the keys that were made elsewhere and do not begin with `lg_`.
    """

    version: int
    kids: frozenset[str] | None
    has_keys: bool
    imported: frozenset[str]


class KeyStore(Protocol):
    """Where virtual keys are kept.

    - `find` returns the key with that handle, then its parent, grandparent …; empty if there is
      none. Also keys that expired or were revoked.
    - `changes` returns None if nothing changed since the version `since`. A change that was
      committed before it was asked is in the answer.
    - `replace_digest` keeps a secret that was verified under another digest: how keys move to a
      new secret key without being issued again.
    - A failing store raises `BackendError` and nothing else. It may take its time.
    """

    async def find(self, handle: str, /) -> Sequence[StoredKey]: ...

    async def changes(self, since: int | None, /) -> KeyChanges | None: ...

    async def replace_digest(self, kid: str, old: KeySecret, new: KeySecret, /) -> None: ...


class Price(Protocol):
    """Turn usage into money, in nano-dollars (1e-9 USD). None means the price is unknown.

    Must return at once: no I/O, microseconds on average.
    """

    def __call__(self, provider: str, model: str, usage: Usage, /) -> int | None: ...


class Count(Protocol):
    """Add to a counter, whose name ends in `_total`. Returns at once, never raises.

    Labels have few values, whatever callers send, and say nothing about who calls.
    """

    def __call__(self, name: str, value: float = 1, /, **labels: str) -> None: ...


class LogSink(Protocol):
    """Where call records go.

    - `write` returns at once, never raises and never blocks: it queues, or counts a drop.
    - What was written is readable by others after `flush` returned, and at the latest 200 ms
      after `write` while an event loop is running.
    - `flush` raises `BackendError` where that takes too long; the records are kept.
    - `aclose` flushes and never raises. Writing after it counts as a drop.
    - `dropped` is the number of records lost since start.
    """

    dropped: int

    def write(self, record: CallRecord, /) -> None: ...

    async def flush(self) -> None: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. None switches a timer off.

    `connect_s` includes TLS; `pool_s` waits for a free connection; `write_s` is per write of the
    request body; `first_byte_s` runs from the end of the request to the response head;
    `idle_s` is between two chunks of the body; `total_s` is over all.
    """

    connect_s: float | None = 5.0
    pool_s: float | None = 5.0
    write_s: float | None = 30.0
    first_byte_s: float | None = 600.0
    idle_s: float | None = 120.0
    total_s: float | None = 900.0


@dataclass(slots=True)
class UpstreamRequest:
    """A request to a provider. `headers` are sent as they are, plus Host and Content-Length.

    `body` is all of it, or an iterator of chunks whose length is in a `content-length` header
    or unknown (then sent chunked); None sends no body and no Content-Length.
    """

    method: str
    url: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes | AsyncIterator[bytes] | None
    timeouts: Timeouts


class Sign(Protocol):
    """Add to a request what its provider wants beside a key in a header: a signature, a token.

    - Called with a request whose body is whole, just before it is sent; changes its headers only.
    - Raises `UpstreamError` with the code `upstream_auth`, whose message holds no credential.
    """

    async def __call__(self, request: UpstreamRequest, /) -> None: ...


class UpstreamResponse(Protocol):
    """A response whose head has arrived and whose body is read as it comes.

    - `read` returns the next bytes as soon as any arrive, never waiting for more to fill a
      buffer; b"" at the end, and only there.
    - `read` raises `UpstreamBrokenError` when the connection ends before the body does, and
      `UpstreamTimeoutError` when `idle_s` or `total_s` ran out.
    - `aclose` before the end closes the connection at once, so that the provider stops
      working; after the end it hands the connection back. Cancelling a `read` and then calling
      `aclose` is allowed.
    - Bodies are not decompressed; headers are as sent, names in lower case.
    """

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> RawHeaders: ...

    async def read(self) -> bytes: ...

    async def aclose(self) -> None: ...


class Upstream(Protocol):
    """Sends bytes to providers; the only part that does.

    - Constructing does no I/O; connections are made on first use.
    - `open` returns when the response head has arrived. It raises `UpstreamConnectError`
      (nothing arrived: refused, DNS, TLS, reset before the head) or `UpstreamTimeoutError`
      (connect, pool, first byte, total). Cancelling it closes the connection.
    - 1xx responses are passed over. Redirects are never followed. No proxy, cookie or TLS
      setting is read from the environment or the request.
    """

    async def open(self, request: UpstreamRequest, /) -> UpstreamResponse: ...

    async def aclose(self) -> None: ...


class CacheRead(NamedTuple):
    """What a store holds under a key. `values` has one place per slot, None where there is none."""

    values: list[bytes | None]
    generations: dict[str, int]


class CacheSize(NamedTuple):
    entries: int
    bytes: int


class CacheStore(Protocol):
    """Answers under keys, and generations under names.

    - `read` returns exactly the bytes given to `write`, or None. An expired value is never
      returned. Generations are not older than the values they come with, and not older than the
      call of `read`.
    - What was written is readable by the same process at once, by others soon.
    - A generation that was never moved has some value, the same for everybody.
    - `bump` moves all names to values they never had, at once for all processes that share the
      store: what is read after it returned shows them. It may move others, too.
    - `acquire` gives a lease to one holder until it expires or is released; the holder may acquire
      it again, to prolong it.
    - Constructing does no I/O. Safe for concurrent use within one event loop.
    - A failing store raises `BackendError` and nothing else, within its time limit. Nothing is
      to be concluded about the generations of a store that failed.
    - What is kept may be forgotten at any time, but for the generations of what is still kept.
    - `is_shared` says whether other processes use it.
    """

    is_shared: bool

    async def read(self, key: CacheKey, *, slots: int, names: Sequence[str]) -> CacheRead: ...

    async def generations(self, names: Sequence[str]) -> dict[str, int]: ...

    async def write(
        self, key: CacheKey, slot: int, value: bytes, *, partition: str, ttl_s: float
    ) -> None: ...

    async def bump(self, names: Sequence[str]) -> None: ...

    def bump_blocking(self, names: Sequence[str]) -> None:
        """As `bump`, for code without an event loop, from any thread."""

    async def acquire(self, key: CacheKey, holder: str, *, ttl_s: float) -> bool: ...

    async def release(self, key: CacheKey, holder: str) -> None: ...

    async def delete(self, key: CacheKey) -> bool: ...

    async def delete_older(self, created_before_us: int, *, partition: str | None = None) -> int:
        """Remove what was made before; return how many that were."""
        ...

    async def size(self) -> CacheSize: ...

    async def aclose(self) -> None: ...


class Embedder(Protocol):
    """Texts to vectors.

    - `id` names the model and its version: vectors of different ids are never compared.
    - `embed` returns a vector of unit length, always the same one for the same text.
    - Constructing does no I/O and loads nothing.
    - A failing embedder raises `BackendError` and nothing else.
    """

    @property
    def id(self) -> str: ...

    async def embed(self, text: str, /) -> Vector: ...

    async def aclose(self) -> None: ...


class IndexSize(NamedTuple):
    """How much an index holds. `bytes` is None where that is not known."""

    aliases: int
    scopes: int
    bytes: int | None


class VectorIndex(Protocol):
    """Phrasings by meaning, each in one scope.

    - `nearest` returns up to `limit` aliases of `scope` that have not expired, nearest first.
      Nothing of any other scope is looked at. Distances are cosine distances, 0 to 2.
    - A scope is 64 lower-case hex digits. Any other is a `ValueError`, never a wider search.
    - What was added is found by the same process at once, by others that share it within 1 s; what
      was removed likewise.
    - What is kept may be forgotten at any time.
    - Constructing does no I/O. Safe for concurrent use within one event loop.
    - A failing index raises `BackendError` and nothing else, within its time limit.
    """

    async def nearest(self, scope: str, vector: Vector, *, limit: int) -> list[Neighbour]: ...

    async def add(self, scope: str, alias: Alias, vector: Vector) -> None: ...

    async def remove(self, scope: str, ids: Sequence[str]) -> None: ...

    async def remove_answer(self, scope: str, answer: CacheKey) -> int:
        """Remove all aliases that lead to `answer`; return how many that were."""
        ...

    async def purge(
        self, *, partition: str | None = None, created_before_us: int | None = None
    ) -> int:
        """Remove what all given criteria hold for, all if none is; return how many that were."""
        ...

    async def listed(
        self, *, partition: str | None = None, limit: int = 100
    ) -> list[tuple[str, Alias]]:
        """Return the newest aliases, each with its scope."""
        ...

    async def size(self) -> IndexSize: ...

    async def aclose(self) -> None: ...


class LabelsRead(NamedTuple):
    """What has been learned since one looked last.

    Args:
        epoch: Another one than before says that everything earlier was forgotten.
        last: To be given as `after` the next time.
        labels: Those after, oldest first.
        model: The newest model, and its version; None if there is none, or the version was known.
    """

    epoch: int
    last: int
    labels: list[bytes]
    model: tuple[int, bytes] | None


class LabelStore(Protocol):
    """What was learned, per partition: the newest verdicts, and the model made from them.

    - `append` adds at the end; at least the newest `window` labels of a partition are kept.
    - `since` returns labels in the order in which they were added, each once to each process.
    - `set_model` gives the model a version above all earlier ones.
    - `reset` forgets labels and model of a partition, and begins a new epoch.
    - Constructing does no I/O. A failing store raises `BackendError` and nothing else.
    """

    async def append(self, partition: str, labels: Sequence[bytes]) -> None: ...

    async def since(self, partition: str, *, after: int, model_version: int) -> LabelsRead: ...

    async def set_model(self, partition: str, model: bytes) -> int: ...

    async def reset(self, partition: str) -> None: ...

    async def partitions(self) -> list[str]: ...

    async def aclose(self) -> None: ...


class Taken(NamedTuple):
    """What came of `LimitStore.take`.

    Args:
        hold: To be handed to `settle` once; None if the call was refused.
        standings: One per claim, in their order; those that refused are not `allowed`.
    """

    hold: object | None
    standings: Sequence[Standing]


class LimitStore(Protocol):
    """Counts what calls take of their limits.

    - `take` takes all claims or none. It returns at once where it can, else something to await.
    - `settle` replaces what was reserved by what was spent, and never blocks and never raises.
    - Neither fails: where a store cannot be reached, each worker goes on with its share of every
      limit, and the store is told later what was spent meanwhile.
    - What a process held when it died comes back after a time that the store documents.
    - Budgets and what was spent of them survive the process, except in memory. What one process
      sets, others see within 2 s.
    - `first` is true for one caller of all, once per key.
    - Constructing does no I/O. `aclose` hands back what is held and closes what was opened.
    """

    on_spent: Callable[[str, int], None] | None
    """Told the key of a budget's meter, and what was spent of it so far, by everybody."""

    def take(self, claims: Sequence[Claim], /) -> Taken | Awaitable[Taken]: ...

    def settle(self, hold: object, spent: Sequence[int], /) -> None: ...

    def budgets(self) -> Sequence[Budget] | None:
        """Return the budgets that were set in this store, as of 2 s ago at most; None if they
        have to be loaded."""
        ...

    async def load_budgets(self) -> Sequence[Budget]:
        """Return the budgets as of now; those known before where the store cannot be reached."""
        ...

    async def set_budget(self, budget: Budget) -> None: ...

    async def remove_budget(self, name: str) -> bool: ...

    async def reset_budget(self, prefix: str, subject: str | None) -> None:
        """Forget what was spent of the meters whose keys begin with `prefix`, of all periods.

        With a subject only those whose keys end with it.
        """
        ...

    async def spent(self, prefix: str) -> dict[str, int]:
        """Return what was spent by key, of meters whose keys begin with `prefix`."""
        ...

    async def first(self, key: str) -> bool: ...

    async def aclose(self) -> None: ...
