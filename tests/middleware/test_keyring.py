"""How virtual keys are remembered and forgotten. Time is a variable; the store is a dictionary."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from asgi_llmgate.core.key_check import TokenDigests
from asgi_llmgate.core.virtual_keys import KID_BYTES, mint, new_kid
from asgi_llmgate.errors import AuthenticationError, BackendError, OverloadedError
from asgi_llmgate.middleware import _keyring, _strangers
from asgi_llmgate.middleware._keyring import Keyring
from asgi_llmgate.protocols import KeyChanges
from asgi_llmgate.types import Grants, KeySecret, Principal, StoredKey

OLD, NEW = b"o" * 32, b"n" * 32
DIGESTS = TokenDigests([NEW])


class Store:
    """A `KeyStore` in memory that can be down, or frozen."""

    def __init__(self) -> None:
        self.keys: dict[str, StoredKey] = {}
        self.changed: dict[str, int] = {}
        self.version = 1
        self.is_down = False
        self.frozen: asyncio.Event | None = None
        self.found: list[str] = []
        self.polls = 0

    def put(self, key: StoredKey) -> None:
        self.version += 1
        self.changed[key.kid] = self.version
        self.keys[key.kid] = key

    async def answer(self) -> None:
        if self.frozen is not None:
            await self.frozen.wait()
        if self.is_down:
            raise BackendError("no route to it")

    async def find(self, handle: str) -> Sequence[StoredKey]:
        self.found.append(handle)
        chain = [
            key
            for key in self.keys.values()
            if any(secret.handle == handle for secret in key.secrets)
        ]
        await self.answer()
        while chain and chain[-1].parent is not None:
            chain.append(self.keys[chain[-1].parent])
        return chain

    async def changes(self, since: int | None) -> KeyChanges | None:
        self.polls += 1
        await self.answer()
        if since == self.version:
            return None
        kids = None
        if since is not None:
            kids = frozenset(kid for kid, version in self.changed.items() if version > since)
        handles = {secret.handle for key in self.keys.values() for secret in key.secrets}
        return KeyChanges(self.version, kids, bool(self.keys), frozenset(handles - set(self.keys)))

    async def replace_digest(self, kid: str, old: KeySecret, new: KeySecret) -> None:
        await self.answer()
        key = self.keys[kid]
        self.put(replace(key, secrets=tuple(new if s == old else s for s in key.secrets)))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def issue(store: Store, digests: TokenDigests = DIGESTS, **fields: Any) -> str:
    """Put a new key in the store; return its token."""
    kid = new_kid(secrets.token_bytes(KID_BYTES))
    token = mint(kid, secrets.token_bytes(32))
    secret = KeySecret(kid, digests.current(token), digests.current_id)
    store.put(replace(StoredKey(kid, "acme", "x", (secret,), Grants()), **fields))
    return token


def kid_of(token: str) -> str:
    return token.split("_")[1]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ring(store: Store, clock: Clock) -> AsyncIterator[Keyring]:
    ring = Keyring(store, [NEW], clock=clock, wall=clock)
    yield ring
    await ring.aclose()


async def ask(ring: Keyring, token: str) -> Principal | None:
    """What auth does with every call."""
    await ring.refresh()
    return await ring.find(token)


async def polled(ring: Keyring) -> None:
    """Let a question that was put in the background be answered."""
    if ring._polling is not None:
        await asyncio.wait([ring._polling])


async def test_a_key_is_looked_up_once_a_minute(ring: Keyring, store: Store, clock: Clock) -> None:
    token = issue(store)
    for _ in range(59):
        assert await ask(ring, token) is not None
        clock.now += 1
    assert len(store.found) == 1
    clock.now += 2

    assert await ask(ring, token) is not None
    assert len(store.found) == 2


async def test_changes_are_asked_for_at_most_every_400_ms(
    ring: Keyring, store: Store, clock: Clock
) -> None:
    token = issue(store)
    for _ in range(1000):  # ten seconds
        await ask(ring, token)
        clock.now += 0.01
        await asyncio.sleep(0)

    assert 20 <= store.polls <= 26


async def test_a_revoked_key_is_refused_within_a_second(
    ring: Keyring, store: Store, clock: Clock
) -> None:
    token = issue(store)
    await ask(ring, token)
    store.put(replace(store.keys[kid_of(token)], revoked_at_s=1.0))
    clock.now += 0.81

    with pytest.raises(AuthenticationError) as caught:
        await ask(ring, token)
    assert caught.value.code == "key_revoked"


async def test_revoking_a_parent_revokes_what_is_below_it(
    ring: Keyring, store: Store, clock: Clock
) -> None:
    parent = issue(store)
    child = issue(store, parent=kid_of(parent))
    assert await ask(ring, child) is not None
    store.put(replace(store.keys[kid_of(parent)], revoked_at_s=1.0))
    clock.now += 0.81

    with pytest.raises(AuthenticationError):
        await ask(ring, child)


async def test_a_change_of_one_key_makes_no_other_looked_up_again(
    ring: Keyring, store: Store, clock: Clock
) -> None:
    tokens = [issue(store) for _ in range(20)]
    for token in tokens:
        await ask(ring, token)
    issue(store)
    clock.now += 0.81
    for token in tokens:
        await ask(ring, token)

    assert len(store.found) == 20


async def test_a_key_that_was_read_before_its_revocation_is_not_remembered(
    ring: Keyring, store: Store, clock: Clock
) -> None:
    """The look-up waits in the store while the revocation is committed and noticed."""
    token = issue(store)
    await ring.refresh()
    store.frozen = asyncio.Event()
    slow = asyncio.create_task(ring.find(token))
    while not store.found:
        await asyncio.sleep(0)
    thawed, store.frozen = store.frozen, None
    store.put(replace(store.keys[kid_of(token)], revoked_at_s=1.0))
    clock.now += 0.81
    await ring.refresh()
    thawed.set()
    assert await slow is not None

    with pytest.raises(AuthenticationError):
        await ask(ring, token)


async def test_an_expired_key_is_refused_without_asking_anybody(
    ring: Keyring, store: Store, clock: Clock
) -> None:
    token = issue(store, expires_at_s=1010.0)
    assert await ask(ring, token) is not None
    clock.now = 1010.0

    with pytest.raises(AuthenticationError) as caught:
        await ask(ring, token)
    assert caught.value.code == "key_expired"
    assert len(store.found) == 1


async def test_twenty_thousand_made_up_keys_ask_the_store_nothing(
    ring: Keyring, store: Store
) -> None:
    for _ in range(20_000):
        text = secrets.token_hex(30)
        assert await ask(ring, f"lg_{text[:10]}_{text[10:53]}_{text[53:59]}") is None

    assert store.found == []


async def test_well_formed_strangers_are_looked_up_once(ring: Keyring, store: Store) -> None:
    stranger = mint("0000000000", secrets.token_bytes(32))
    for _ in range(10):
        assert await ask(ring, stranger) is None

    assert store.found == ["0000000000"]


async def test_unknown_and_wrong_secrets_make_the_same_look_ups(
    ring: Keyring, store: Store
) -> None:
    kid = kid_of(issue(store))
    for tried in ("0000000000", kid):
        store.found.clear()
        for number in range(5):
            assert await ask(ring, mint(tried, number.to_bytes(32))) is None

        assert store.found == [tried] * 5


async def test_a_flood_of_well_formed_strangers_is_cut_and_hurts_no_known_key(
    ring: Keyring, store: Store, clock: Clock
) -> None:
    seen, unseen = issue(store), issue(store)
    await ask(ring, seen)
    overloaded = 0
    for number in range(5000):
        try:
            assert await ask(ring, mint("0000000000", number.to_bytes(32))) is None
        except OverloadedError:
            overloaded += 1
        clock.now += 0.001
    looked_up = len(store.found)
    assert await ask(ring, seen) is not None
    clock.now += 1

    assert looked_up <= 1000 + 5 * 100 + 1
    assert overloaded >= 3400
    assert await ask(ring, unseen) is not None


async def test_guesses_do_not_push_out_what_is_known(
    ring: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_strangers, "MAX_REMEMBERED", 10)
    token = issue(store)
    await ask(ring, token)
    for number in range(50):
        await ask(ring, mint("0000000000", number.to_bytes(32)))
    looked_up = len(store.found)
    await ask(ring, token)

    assert len(store.found) == looked_up
    assert len(ring._strangers) == 10


async def test_what_is_known_is_bounded(
    ring: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_keyring, "MAX_KNOWN", 10)
    for _ in range(30):
        await ask(ring, issue(store))

    assert len(ring._known) <= 10


async def test_calls_that_come_together_make_one_look_up(ring: Keyring, store: Store) -> None:
    token = issue(store)
    found = await asyncio.gather(*(ask(ring, token) for _ in range(100)))

    assert len({id(principal) for principal in found}) == 1
    assert len(store.found) == 1


async def test_a_caller_that_leaves_ends_no_other_callers_look_up(
    ring: Keyring, store: Store
) -> None:
    token = issue(store)
    await ring.refresh()
    store.frozen = asyncio.Event()
    leaver, stayer = (asyncio.create_task(ring.find(token)) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.sleep(0)
    store.frozen.set()

    assert await stayer is not None
    assert len(store.found) == 1


# --- keys made elsewhere


async def test_an_imported_key_is_known_by_its_whole_text(ring: Keyring, store: Store) -> None:
    text = "sk-helicone-4fj3k2l-9dk2j1x-a8s7d6f-p0o9i8u"
    digest = DIGESTS.current(text)
    secret = KeySecret(digest.hex(), digest, DIGESTS.current_id)
    issue(store, secrets=(secret,), is_imported=True)

    assert await ask(ring, text) is not None
    assert ring.may_be(text)
    assert await ask(ring, text + "x") is None
    assert await ask(ring, text[:-1]) is None
    assert len(store.found) == 1


async def test_keys_of_providers_ask_the_store_nothing(ring: Keyring, store: Store) -> None:
    for number in range(100):
        assert await ask(ring, f"sk-proj-{number}") is None

    assert store.found == []


# --- the store is down


async def test_keys_that_were_seen_work_for_five_minutes_without_the_store(
    ring: Keyring, store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    token = issue(store)
    await ask(ring, token)
    store.is_down = True
    with caplog.at_level(logging.INFO, logger="asgi_llmgate.auth"):
        for _ in range(290):
            clock.now += 1
            assert await ask(ring, token) is not None
            await polled(ring)
    assert caplog.text.count("the store is down") == 1
    clock.now += 20

    with pytest.raises(OverloadedError):
        await ask(ring, token)
    store.is_down = False
    clock.now += 2
    await ring.refresh()
    await polled(ring)
    assert await ask(ring, token) is not None


async def test_keys_that_were_never_seen_are_refused_without_the_store(
    ring: Keyring, store: Store, clock: Clock
) -> None:
    await ask(ring, issue(store))
    token = issue(store)
    store.is_down = True
    clock.now += 5

    with pytest.raises(OverloadedError):
        await ask(ring, token)


async def test_a_key_known_to_be_revoked_has_no_grace(
    ring: Keyring, store: Store, clock: Clock
) -> None:
    token = issue(store)
    await ask(ring, token)
    store.put(replace(store.keys[kid_of(token)], revoked_at_s=1.0))
    clock.now += 0.81
    await ring.refresh()
    store.is_down = True
    clock.now += 2

    with pytest.raises(OverloadedError):
        await ask(ring, token)


async def test_a_store_that_never_answered_lets_nobody_in(ring: Keyring, store: Store) -> None:
    store.is_down = True

    with pytest.raises(OverloadedError):
        await ring.refresh()
    with pytest.raises(OverloadedError):
        await ring.refresh()


async def test_a_frozen_store_costs_one_call_its_patience_and_others_nothing(
    store: Store, clock: Clock
) -> None:
    ring = Keyring(store, [NEW], clock=clock, wall=clock, patience_s=0.01)
    token = issue(store)
    await ask(ring, token)
    store.frozen = asyncio.Event()
    clock.now += 1
    assert await ask(ring, token) is not None  # waits for 10 ms
    polls = store.polls
    for _ in range(100):
        clock.now += 0.1
        assert await asyncio.wait_for(ask(ring, token), 0.5) is not None
    assert store.polls == polls
    await ring.aclose()


# --- another secret


async def test_a_key_moves_to_the_secret_in_force_when_it_is_used(
    store: Store, clock: Clock
) -> None:
    before = TokenDigests([OLD])
    token = issue(store, before)
    ring = Keyring(store, [NEW, OLD], clock=clock, wall=clock)
    assert await ask(ring, token) is not None
    await ring.aclose()
    after = Keyring(store, [NEW], clock=clock, wall=clock)

    assert await ask(after, token) is not None
    await after.aclose()


async def test_gateways_that_disagree_on_the_secret_do_not_write_in_turns(
    store: Store, clock: Clock
) -> None:
    token = issue(store)
    rings = [Keyring(store, pair, clock=clock, wall=clock) for pair in ([NEW, OLD], [OLD, NEW])]
    version = store.version
    for _ in range(100):
        clock.now += 1
        for ring in rings:
            assert await ask(ring, token) is not None
            await polled(ring)
    for ring in rings:
        await ring.aclose()

    assert store.version - version <= 2


async def test_a_key_works_even_where_it_cannot_be_moved(store: Store, clock: Clock) -> None:
    token = issue(store, TokenDigests([OLD]))

    async def fails(*_: object) -> None:
        raise BackendError("read only")

    store.replace_digest = fails  # type: ignore[method-assign,assignment]  # fails whatever it is given
    ring = Keyring(store, [NEW, OLD], clock=clock, wall=clock)

    assert await ask(ring, token) is not None
    await ring.aclose()


def test_a_keyring_serves_one_event_loop_after_another(store: Store) -> None:
    """Test clients and Django run each request in a loop of its own."""
    token = issue(store)
    ring = Keyring(store, [NEW])
    for _ in range(3):
        assert asyncio.run(ask(ring, token)) is not None
