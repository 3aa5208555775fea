from __future__ import annotations

import pytest

from asgi_llmgate.core.hygiene_path import MAX_TARGET_BYTES, check_path
from asgi_llmgate.errors import InvalidRequestError

PLAIN = [
    "/",
    "/healthz",
    "/v1/chat/completions",
    "/v1/models/gpt-4.1",
    "/v1/models/..gpt",
    "/v1/files/file-abc_123~x",
    "/v1beta/models/gemini-3-pro:generateContent",
    "/.well-known/openid-configuration",
    "/a.b/.../c.",
    "/v1/models/name;version",
]


@pytest.mark.parametrize("path", PLAIN)
def test_a_plain_path_passes(path: str) -> None:
    check_path(path, path.encode())
    check_path(path, None)


ENCODED = {
    "/v1/models/meta-llama%2FLlama-3": "/v1/models/meta-llama/Llama-3",
    "/models/meta-llama%2fLlama-3": "/models/meta-llama/Llama-3",
    "/v1beta/models/tuned%2Fx:generateContent": "/v1beta/models/tuned/x:generateContent",
    "/model/arn%3Aaws%3Abedrock%3A%3A%3Aprofile%2Fabc/converse": (
        "/model/arn:aws:bedrock:::profile/abc/converse"
    ),
    "/providers/together/v1/models/a%2Fb": "/providers/together/v1/models/a/b",
    "/v1/models/caf%C3%A9": "/v1/models/café",
    "/v1/models/a%20b": "/v1/models/a b",
    "/v1/models/gpt-4%2E1": "/v1/models/gpt-4.1",
    "/v1/models/100%25": "/v1/models/100%",
}


@pytest.mark.parametrize("raw", ENCODED)
def test_an_encoded_path_that_has_one_reading_passes(raw: str) -> None:
    check_path(ENCODED[raw], raw.encode())


@pytest.mark.parametrize("raw", ENCODED)
def test_a_mount_point_in_front_changes_nothing(raw: str) -> None:
    check_path("/llm" + ENCODED[raw], b"/llm" + raw.encode(), "/llm")
    check_path(ENCODED[raw], b"/llm" + raw.encode(), "/llm")


def test_a_host_that_cut_the_mount_point_off_may_leave_nothing() -> None:
    check_path("", b"/llm", "/llm")
    check_path("", None, "/llm")


def test_some_servers_leave_the_query_in_the_raw_path() -> None:
    check_path("/v1/models", b"/v1/models?limit=1", "", b"limit=1")


AMBIGUOUS = {
    "no leading slash": ("v1/models", b"v1/models"),
    "empty": ("", b""),
    "absolute form": ("http://evil.test/v1/models", b"http://evil.test/v1/models"),
    "authority form": ("evil.test:443", b"evil.test:443"),
    "asterisk": ("*", b"*"),
    "two slashes in front": ("//v1/models", b"//v1/models"),
    "two slashes inside": ("/v1//models", b"/v1//models"),
    "dot segment": ("/v1/./models", b"/v1/./models"),
    "dot dot": ("/v1/../admin", b"/v1/../admin"),
    "dot dot at the end": ("/v1/..", b"/v1/.."),
    "dot at the end": ("/v1/.", b"/v1/."),
    "encoded dots": ("/v1/../admin", b"/v1/%2e%2E/admin"),
    "half encoded dots": ("/v1/../admin", b"/v1/.%2e/admin"),
    "dots with a parameter": ("/v1/..;/admin", b"/v1/..;/admin"),
    "backslash": ("/v1\\..\\admin", b"/v1\\..\\admin"),
    "encoded backslash": ("/v1/\\admin", b"/v1/%5Cadmin"),
    "encoded NUL": ("/v1/models\0", b"/v1/models%00"),
    "encoded line feed": ("/v1/models\n", b"/v1/models%0a"),
    "fragment": ("/v1/models#/healthz", b"/v1/models#/healthz"),
    "blank": ("/v1/mo dels", b"/v1/mo dels"),
    "not ASCII": ("/v1/é", b"/v1/\xc3\xa9"),
    "not UTF-8": ("/v1/\ufffdmodels", b"/v1/%ffmodels"),
    "overlong slash": ("/v1/\ufffd\ufffdadmin", b"/v1/%c0%afadmin"),
    "encoded slash anywhere": ("/v1/chat/completions", b"/v1/chat%2Fcompletions"),
    "encoded slash before the id": ("/v1/models/x", b"/v1/models%2Fx"),
    "encoded slash in the provider": ("/providers/a/b/c", b"/providers/a%2Fb/c"),
    "two encoded ids": ("/model/a/b/c/d", b"/model/a%2Fb/c%2Fd"),
    "more after the id": ("/v1/models/a/b/c", b"/v1/models/a%2Fb/c"),
    "encoded slash in another route": ("/v1/files/a/b", b"/v1/files/a%2Fb"),
    "dots inside an id": ("/v1/models/a/../../admin", b"/v1/models/a%2F..%2F..%2Fadmin"),
    "empty segment inside an id": ("/v1/models/a//b", b"/v1/models/a%2F%2Fb"),
    "slash in front of an id": ("/v1/models//etc", b"/v1/models/%2Fetc"),
    "encoded twice": ("/v1/%2e%2e/admin", b"/v1/%252e%252e/admin"),
    "slash encoded twice": ("/v1/models/a%2fb", b"/v1/models/a%252fb"),
    "encoded three times": ("/v1/models/a%252fb", b"/v1/models/a%25252fb"),
    "only the decoded path is bad": ("/v1/../admin", b"/v1/models"),
    "only the raw path is bad": ("/v1/models", b"/v1/x/../models"),
}


@pytest.mark.parametrize("paths", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_an_ambiguous_path_is_refused(paths: tuple[str, bytes]) -> None:
    path, raw_path = paths
    with pytest.raises(InvalidRequestError):
        check_path(path, raw_path)
    if path.startswith("/"):
        with pytest.raises(InvalidRequestError):
            check_path("/llm" + path, b"/llm" + raw_path, "/llm")


def test_without_a_raw_path_the_decoded_one_is_checked() -> None:
    for path in ("/v1/../admin", "//v1", "/v1/%2e%2e/admin", "/v1\\admin", "v1"):
        with pytest.raises(InvalidRequestError):
            check_path(path, None)


@pytest.mark.parametrize("query", [b"a=\x00", b"a b", b"\xff", b"a\r\nb"])
def test_a_query_with_anything_invisible_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        check_path("/v1/models", b"/v1/models", "", query)


def test_a_target_has_a_longest_length() -> None:
    check_path("/v1", b"/v1", "", b"a" * (MAX_TARGET_BYTES - 3))

    with pytest.raises(InvalidRequestError, match="longer than"):
        check_path("/v1", b"/v1", "", b"a" * (MAX_TARGET_BYTES - 2))
