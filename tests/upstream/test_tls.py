"""Whom the transports trust."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from asgi_llmgate.errors import ConfigurationError, UpstreamBrokenError, UpstreamConnectError
from asgi_llmgate.protocols import Upstream
from asgi_llmgate.upstream.pyreqwest import PyreqwestUpstream
from tests.upstream.server import serving
from tests.upstream.test_contract import (
    CHUNKED,
    OK,
    assert_left_at_once,
    assert_no_secret,
    call,
    chunk,
    get,
    opened,
    post,
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in which the authority in use is not the first."""
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    path.write_bytes(
        b"# Another\n" + trustme.CA().cert_pem.bytes() + b"\n" + authority.cert_pem.bytes()
    )
    return path


def server_context(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_an_authority_of_the_ca_file_is_trusted(
    make: Callable[..., Upstream], authority: trustme.CA, ca_file: Path
) -> None:
    upstream = make(ca_file=ca_file)
    async with serving(server_context(authority)) as server:
        server.always(OK)
        for _ in range(2):
            assert await call(upstream, post(server.url)) == (200, b"ok")
        assert len(server.connections) == 1
        await upstream.aclose()


async def test_leaving_closes_a_tls_connection_at_once(
    make: Callable[..., Upstream], authority: trustme.CA, ca_file: Path
) -> None:
    upstream = make(ca_file=ca_file)
    async with serving(server_context(authority)) as server:
        response, connection = await opened(upstream, server, CHUNKED + chunk(b"hello"))
        assert await response.read() == b"hello"
        await response.aclose()
        await assert_left_at_once(connection)
        await upstream.aclose()


async def test_a_tls_connection_that_breaks_is_a_broken_response(
    make: Callable[..., Upstream], authority: trustme.CA, ca_file: Path
) -> None:
    upstream = make(ca_file=ca_file)
    async with serving(server_context(authority)) as server:
        response, connection = await opened(upstream, server, CHUNKED + chunk(b"hello"))
        assert await response.read() == b"hello"
        connection.writer.transport.abort()
        with pytest.raises(UpstreamBrokenError):
            await response.read()
        await response.aclose()
        await upstream.aclose()


async def test_an_unknown_authority_is_refused(
    make: Callable[..., Upstream], authority: trustme.CA
) -> None:
    upstream = make()
    async with serving(server_context(authority)) as server:
        with pytest.raises(UpstreamConnectError) as caught:
            await upstream.open(get(server.url))
        await upstream.aclose()

    assert str(caught.value) == "No connection to the provider: its certificate is not trusted."
    assert_no_secret(caught.value)


async def test_the_environment_names_no_authority_and_no_key_log(
    make: Callable[..., Upstream],
    authority: trustme.CA,
    ca_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    if make is PyreqwestUpstream:
        reason = "rustls-native-certs, inside pyreqwest, reads SSL_CERT_FILE"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    upstream = make()
    async with serving(server_context(authority)) as server:
        server.always(OK)
        with pytest.raises(UpstreamConnectError):
            await upstream.open(get(server.url))
        await upstream.aclose()

    assert not (tmp_path / "keys").exists()


async def test_a_certificate_for_another_name_is_refused(
    make: Callable[..., Upstream], authority: trustme.CA, ca_file: Path
) -> None:
    upstream = make(ca_file=ca_file)
    async with serving(server_context(authority, "other.example")) as server:
        with pytest.raises(UpstreamConnectError) as caught:
            await upstream.open(get(server.url))
        await upstream.aclose()

    assert str(caught.value) == "No connection to the provider: its certificate is not trusted."
    assert_no_secret(caught.value)


async def test_plain_http_from_a_tls_port_is_a_connect_error(
    make: Callable[..., Upstream],
) -> None:
    upstream = make()
    async with serving() as server:
        url = server.url.replace("http:", "https:")
        opening = asyncio.ensure_future(upstream.open(get(url)))
        connection = await server.accept()
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(UpstreamConnectError) as caught:
            await opening
        await upstream.aclose()

    assert str(caught.value) == "No connection to the provider could be made."


DAMAGED = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    "content", [None, b"no certificate", DAMAGED], ids=["absent", "empty", "damaged"]
)
async def test_a_useless_ca_file_is_a_configuration_error(
    make: Callable[..., Upstream], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"(?s)ca\.pem.*HINT: "):
        await make(ca_file=path).open(get("https://localhost:1"))
