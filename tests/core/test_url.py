from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_llmgate.core.url import join

HOST = "https://api.example.com"


@pytest.mark.parametrize(
    ("base", "path", "expected"),
    [
        ("/v1", "/chat/completions", "/v1/chat/completions"),
        ("/v1/", "/chat/completions", "/v1/chat/completions"),
        ("", "/chat/completions", "/chat/completions"),
        ("/", "/v1/messages", "/v1/messages"),
        # One version is enough.
        ("/v1", "/v1/chat/completions", "/v1/chat/completions"),
        ("/v1", "/v1", "/v1"),
        ("/api/paas/v4", "/api/paas/v4/chat/completions", "/api/paas/v4/chat/completions"),
        ("/openai", "/openai/deployments/d/x", "/openai/deployments/d/x"),
        # The caller's version replaces the one at the end.
        ("/v1beta", "/v1/models/g:generateContent", "/v1/models/g:generateContent"),
        ("/v1", "/v1beta/models/g:generateContent", "/v1beta/models/g:generateContent"),
        ("/inference/v1", "/v2/x", "/inference/v2/x"),
        # Within the base, the version is the base's own.
        ("/v1beta/openai", "/v1/chat/completions", "/v1beta/openai/chat/completions"),
        (
            "/v1/projects/p/locations/l/publishers/google",
            "/v1beta/models/g:generateContent",
            "/v1/projects/p/locations/l/publishers/google/models/g:generateContent",
        ),
        # A path that begins like the base is a path in full.
        ("/v1/projects/p/publishers/google", "/v1/projects/q/x", "/v1/projects/q/x"),
        ("/v1/openai", "/v1/openais/x", "/v1/openai/openais/x"),
        # Words that only look like versions.
        ("/v1", "/video/x", "/v1/video/x"),
        ("/v1", "/v1x/x", "/v1/v1x/x"),
        ("/v1", "/models/a%2Fb%20c", "/v1/models/a%2Fb%20c"),
    ],
)
def test_a_version_is_never_written_twice(base: str, path: str, expected: str) -> None:
    assert join(HOST + base, path) == HOST + expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", ""),
        (b"api-version=2024-10-21", "?api-version=2024-10-21"),
        (b"alt=sse&key=secret", "?alt=sse"),
        (b"key=secret", ""),
        (b"%6Bey=secret&a=1", "?a=1"),
        (b"key", ""),
        (b"keys=1&monkey=2", "?keys=1&monkey=2"),
        (b"a=%20%2F+b&a=&&c", "?a=%20%2F+b&a=&&c"),
        (b"a=b c#d\xff", "?a=b%20c%23d%FF"),
    ],
)
def test_a_query_is_passed_on_as_sent_but_for_the_key(query: bytes, expected: str) -> None:
    assert join(HOST + "/v1", "/x", query) == f"{HOST}/v1/x{expected}"


@given(
    st.sampled_from(["", "/v1", "/v1beta/openai", "/a/v4", "/v1/p/q"]),
    st.text(alphabet="v1/beta%2F.:@", max_size=20),
    st.binary(max_size=20),
)
def test_nothing_leads_to_another_host(base: str, rest: str, query: bytes) -> None:
    assert join(HOST + base, "/" + rest, query).startswith(HOST + "/")
