from __future__ import annotations

import pytest

from asgi_llmgate.core.forward import answer_headers, forward_all, forward_allowed, key_header
from asgi_llmgate.types import Secret

SENT = [
    (b"Host", b"gateway.example"),
    (b"Content-Type", b"application/json"),
    (b"Content-Length", b"2"),
    (b"Accept-Encoding", b"gzip"),
    (b"Authorization", b"Bearer sk"),
    (b"x-api-key", b"sk"),
    (b"Cookie", b"session=1"),
    (b"X-Forwarded-For", b"10.0.0.1"),
    (b"Connection", b"keep-alive, X-Hop"),
    (b"X-Hop", b"1"),
    (b"LLMGate-User-Id", b"ada"),
    (b"Helicone-Auth", b"Bearer k"),
    (b"anthropic-beta", b"a"),
    (b"X-Custom", b"1"),
]


def test_with_a_key_of_ones_own_all_but_the_gateways_business_goes_on() -> None:
    assert forward_all(SENT) == [
        (b"accept-encoding", b"identity"),
        (b"content-type", b"application/json"),
        (b"anthropic-beta", b"a"),
        (b"x-custom", b"1"),
    ]


def test_with_a_pooled_key_only_an_allow_list_goes_on() -> None:
    assert forward_allowed(SENT) == [
        (b"accept-encoding", b"identity"),
        (b"content-type", b"application/json"),
        (b"anthropic-beta", b"a"),
    ]


def test_answers_lose_what_concerns_this_connection_or_the_operator() -> None:
    answered = [
        (b"content-type", b"application/json"),
        (b"set-cookie", b"a=b"),
        (b"server", b"cloud"),
        (b"x-ratelimit-remaining-tokens", b"5"),
        (b"openai-organization", b"org"),
        (b"llmgate-id", b"forged"),
        (b"x-request-id", b"req_1"),
    ]

    own = {name for name, _ in answer_headers(answered, pooled=False)}
    pooled = {name for name, _ in answer_headers(answered, pooled=True)}

    assert pooled == {b"content-type", b"x-request-id"}
    assert own == pooled | {b"x-ratelimit-remaining-tokens", b"openai-organization"}


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ("bearer", (b"authorization", b"Bearer k")),
        ("x-api-key", (b"x-api-key", b"k")),
        ("x-goog-api-key", (b"x-goog-api-key", b"k")),
        ("api-key", (b"api-key", b"k")),
        ("header:x-own", (b"x-own", b"k")),
        ("sigv4", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_is_sent_as_its_provider_reads_it(
    auth: str, header: tuple[bytes, bytes] | None
) -> None:
    assert key_header(auth, Secret("k")) == header
