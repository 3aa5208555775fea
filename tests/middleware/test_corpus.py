"""The corpus over real sockets: nothing ambiguous is accepted, nobody gets in without a key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.middleware.corpus import KEY, with_key
from tests.middleware.corpus.credentials import CREDENTIALS
from tests.middleware.corpus.fine import FINE
from tests.middleware.corpus.framing import FRAMING
from tests.middleware.corpus.heads import HEADS
from tests.middleware.corpus.resolved import RESOLVED
from tests.middleware.corpus.server import Guarded, serving
from tests.middleware.corpus.targets import TARGETS

AMBIGUOUS = FRAMING | TARGETS | HEADS
ALL = AMBIGUOUS | RESOLVED | CREDENTIALS | FINE


@pytest.fixture(scope="module", params=["h11", "httptools"])
def server(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    with serving(request.param) as guarded:
        yield guarded


def test_the_corpus_is_large_enough_to_mean_something() -> None:
    assert len(AMBIGUOUS | RESOLVED | CREDENTIALS) >= 200
    assert len(ALL) == sum(map(len, (FRAMING, TARGETS, HEADS, RESOLVED, CREDENTIALS, FINE)))


@pytest.mark.parametrize("payload", ALL.values(), ids=ALL)
def test_nothing_passes_without_a_key(server: Guarded, payload: bytes) -> None:
    statuses, reached = server.exchange(with_key(payload, None))

    assert not [status for status in statuses if status < 400]
    assert reached == []


@pytest.mark.parametrize("payload", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_nothing_ambiguous_passes_with_a_key(server: Guarded, payload: bytes) -> None:
    statuses, reached = server.exchange(with_key(payload, KEY))

    # One answer: what came behind was not taken for another request.
    assert len(statuses) <= 1
    assert not [status for status in statuses if status < 400]
    assert reached == []


@pytest.mark.parametrize("payload", RESOLVED.values(), ids=RESOLVED)
def test_what_a_server_resolves_has_one_reading(server: Guarded, payload: bytes) -> None:
    statuses, reached = server.exchange(with_key(payload, KEY))

    if reached:
        assert statuses == [200]
        assert reached in (["/v1/models"], ["/v1/chat/completions"])
    else:
        assert statuses in ([400], [])


@pytest.mark.parametrize("payload", FINE.values(), ids=FINE)
def test_plain_requests_pass_with_a_key(server: Guarded, payload: bytes) -> None:
    statuses, reached = server.exchange(with_key(payload, KEY))

    assert statuses == [200]
    assert len(reached) == 1
