from __future__ import annotations

import pytest

from asgi_llmgate.core.hygiene import (
    check_body_length,
    check_headers,
    check_host,
    check_method,
    likely_dialect,
)
from asgi_llmgate.errors import BodyTooLargeError, GatewayError, InvalidRequestError
from asgi_llmgate.types import Dialect

HOST = (b"host", b"gateway.test")


def headers_of(
    *headers: tuple[bytes, bytes],
    max_headers: int = 100,
    max_header_bytes: int = 32 * 1024,
    http_version: str = "1.1",
) -> list[tuple[bytes, bytes]]:
    """Check `headers` and return what is handed on."""
    checked, table, _ = check_headers(
        list(headers),
        max_headers=max_headers,
        max_header_bytes=max_header_bytes,
        http_version=http_version,
    )
    assert table == dict(checked)
    return list(checked)


def refusal(*headers: tuple[bytes, bytes], http_version: str = "1.1") -> GatewayError:
    with pytest.raises(InvalidRequestError) as caught:
        headers_of(*headers, http_version=http_version)
    return caught.value


# --- methods


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods_of_http_apis_pass(method: str) -> None:
    check_method(method)


@pytest.mark.parametrize("method", ["get", "TRACE", "CONNECT", "_HELPER", "", "POST ", "PROPFIND"])
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_method(method)


# --- headers


def test_ordinary_headers_are_handed_on_as_they_are() -> None:
    headers = [HOST, (b"content-length", b"2"), (b"x-stainless-lang", b"python")]
    checked, table, dropped = check_headers(headers, max_headers=100, max_header_bytes=1000)

    assert checked is headers
    assert table == dict(headers)
    assert dropped == 0


def test_a_header_may_repeat_where_that_has_one_meaning() -> None:
    headers = [HOST, (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"anthropic-beta", b"x")]

    assert headers_of(*headers) == headers


@pytest.mark.parametrize(
    "name",
    [
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"x-goog-api-key",
        b"content-type",
        b"origin",
        b"llmgate-auth",
        b"llmgate-provider",
        b"helicone-auth",
    ],
)
def test_a_header_that_is_read_as_one_value_may_not_repeat(name: bytes) -> None:
    headers = {b"host": b"a", b"content-length": b"1", b"transfer-encoding": b"chunked"}
    value = headers.get(name, b"x")
    error = refusal(*[HOST] * (name != b"host"), (name, value), (name, value))

    assert "more than once" in str(error)
    assert error.param == name.decode().title().replace("Llmgate", "LLMGate")


def test_a_repeat_in_another_case_is_a_repeat() -> None:
    assert "more than once" in str(refusal(HOST, (b"Host", b"other")))


def test_names_are_handed_on_in_lower_case() -> None:
    assert headers_of((b"Host", b"a"), (b"X-Api-Key", b"k")) == [
        (b"host", b"a"),
        (b"x-api-key", b"k"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        b"x_api_key",
        b"X_API-Key",
        b"content_length",
        b"llmgate_auth",
        b"llmgate-user_id",
        b"helicone_auth",
        b"x_forwarded_for",
        b"anthropic_version",
        b"transfer_encoding",
    ],
)
def test_an_underscore_for_a_hyphen_that_is_read_is_refused(name: bytes) -> None:
    error = refusal(HOST, (name, b"1"))

    assert name.lower().replace(b"_", b"-").decode() in str(error)


def test_other_names_with_underscores_are_left_out_and_counted() -> None:
    headers = [HOST, (b"session_id", b"a"), (b"conversation_id", b"b"), (b"accept", b"c")]
    checked, table, dropped = check_headers(headers, max_headers=100, max_header_bytes=1000)

    assert checked == [HOST, (b"accept", b"c")]
    assert set(table) == {b"host", b"accept"}
    assert dropped == 2


def test_property_names_may_have_underscores() -> None:
    headers = [HOST, (b"helicone-property-user_tier", b"a"), (b"llmgate-property-a_b", b"b")]

    assert headers_of(*headers) == headers


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"\xe9", b"a\0", b"(x)"])
def test_a_name_that_is_no_token_is_refused(name: bytes) -> None:
    assert "illegal character" in str(refusal(HOST, (name, b"1")))


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\nb", b"a\0b", b"\x1b[31m", b"\x7f"])
def test_a_control_character_in_a_value_is_refused(value: bytes) -> None:
    error = refusal(HOST, (b"x-title", value))

    assert "control character" in str(error)


def test_tabs_and_other_alphabets_in_values_pass() -> None:
    headers = [HOST, (b"x-title", "a\tcafé".encode())]

    assert headers_of(*headers) == headers


def test_a_request_needs_a_host() -> None:
    assert refusal((b"accept", b"*/*")).param == "Host"


def test_the_number_of_headers_is_bounded() -> None:
    headers = [HOST] + [(b"x-%d" % number, b"1") for number in range(99)]
    headers_of(*headers)

    with pytest.raises(InvalidRequestError, match="more than 100 headers"):
        headers_of(*headers, (b"x-more", b"1"))


@pytest.mark.parametrize("repeats", [1, 8], ids=["one header", "a repeated header"])
def test_the_size_of_headers_is_bounded(repeats: int) -> None:
    headers = [HOST] + [(b"x-a", b"y" * 1000)] * repeats
    size = sum(len(name) + len(value) for name, value in headers)
    headers_of(*headers, max_header_bytes=size)

    with pytest.raises(InvalidRequestError, match="larger than"):
        headers_of(*headers, max_header_bytes=size - 1)


# --- framing


def test_a_chunked_body_passes() -> None:
    headers_of(HOST, (b"transfer-encoding", b" Chunked "))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"identity",
        b"gzip, chunked",
        b",chunked",
        b"chunked, chunked",
        b"xchunked",
        b"chunked;q=1",
        b"chunked\x0b",
        b"chunke\xffd",
    ],
)
def test_any_other_transfer_encoding_is_refused(value: bytes) -> None:
    refusal(HOST, (b"transfer-encoding", value))


def test_a_length_and_chunks_contradict_each_other() -> None:
    error = refusal(HOST, (b"content-length", b"5"), (b"transfer-encoding", b"chunked"))

    assert "both Content-Length and Transfer-Encoding" in str(error)


@pytest.mark.parametrize("version", ["1.0", "2", "3"])
def test_chunks_belong_to_http_1_1(version: str) -> None:
    refusal(HOST, (b"transfer-encoding", b"chunked"), http_version=version)


@pytest.mark.parametrize("value", [b"gzip", b"br", b"zstd", b"deflate, gzip", b"GZIP"])
def test_a_compressed_body_is_refused_with_a_remedy(value: bytes) -> None:
    error = refusal(HOST, (b"content-encoding", value))

    assert error.param == "Content-Encoding"
    assert "without Content-Encoding" in str(error)


def test_an_identity_encoding_passes() -> None:
    headers_of(HOST, (b"content-encoding", b"identity"))


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1_0", b"0x1", b"1, 1", b" 1", b"1" * 19])
def test_a_length_is_a_plain_number(value: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_body_length(value, None, max_body_bytes=10, max_upload_bytes=100)

    assert caught.value.param == "Content-Length"


@pytest.mark.parametrize("kind", [None, b"application/json", b"text/plain"])
def test_a_body_that_is_parsed_has_the_small_limit(kind: bytes | None) -> None:
    check_body_length(b"10", kind, max_body_bytes=10, max_upload_bytes=100)

    with pytest.raises(BodyTooLargeError, match="larger than 10 bytes"):
        check_body_length(b"11", kind, max_body_bytes=10, max_upload_bytes=100)


@pytest.mark.parametrize(
    "kind", [b"multipart/form-data; boundary=x", b"application/octet-stream", b"Audio/WAV"]
)
def test_an_upload_has_the_large_limit(kind: bytes) -> None:
    check_body_length(b"100", kind, max_body_bytes=10, max_upload_bytes=100)

    with pytest.raises(BodyTooLargeError, match="larger than 100 bytes"):
        check_body_length(b"101", kind, max_body_bytes=10, max_upload_bytes=100)


# --- hosts


@pytest.mark.parametrize(
    "host", [b"a", b"a.example.com:8000", b"127.0.0.1:1", b"[::1]:8000", b"[fe80::1]", b"my_app:80"]
)
def test_a_well_formed_host_passes(host: bytes) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a/?x=",
        b"a/",
        b"a?x",
        b"a#x",
        b"user@a",
        b"a:b@c",
        b"a b",
        b"a, b",
        b"a:",
        b"a:80:80",
        b"a:99999",
        b"a:-1",
        b"::1",
        b"[::1",
        b"a\\b",
        b"a%2fb",
        b"http://a",
        b"\xc3\xa9.test",
        b"a\tb",
        b"[::1]evil",
    ],
)
def test_a_malformed_host_is_refused(host: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="malformed"):
        check_host(host)


def test_only_allowed_hosts_pass_if_any_are_named() -> None:
    allowed = frozenset({"gate.test", "*.example.com", "[::1]"})
    for host in (b"gate.test", b"GATE.test:8000", b"a.example.com", b"[::1]:80"):
        check_host(host, allowed)

    for host in (b"evil.test", b"example.com", b"a.b.example.com.evil", b"gate.test.evil"):
        with pytest.raises(InvalidRequestError, match="not served"):
            check_host(host, allowed)


# --- dialects of refusals


@pytest.mark.parametrize(
    ("path", "names", "dialect"),
    [
        ("/v1/chat/completions", [], Dialect.OPENAI),
        ("/v1/messages", [], Dialect.ANTHROPIC),
        ("/llm//v1/messages", [], Dialect.ANTHROPIC),
        ("/v1/models", [b"Anthropic-Version"], Dialect.ANTHROPIC),
        ("/v1/models", [b"x-goog-api-key"], Dialect.GEMINI),
        ("/v1beta/models/x:generateContent", [], Dialect.GEMINI),
        ("/v1beta/../x", [], Dialect.GEMINI),
        ("/openai/deployments/x/../y", [], Dialect.AZURE),
        ("/openai/deployments/x/chat/completions", [], Dialect.AZURE),
        ("/model/x/converse", [], Dialect.BEDROCK),
        ("/anything", [], Dialect.OPENAI),
    ],
)
def test_a_refusal_speaks_the_dialect_the_request_seems_to(
    path: str, names: list[bytes], dialect: Dialect
) -> None:
    assert likely_dialect(path, names) is dialect
