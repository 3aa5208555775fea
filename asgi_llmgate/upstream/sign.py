"""Requests that want more than a key in a header: AWS signatures, Google's short-lived tokens.

Neither library is imported before it is needed; both come with extras.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from asgi_llmgate.errors import ConfigurationError, UpstreamError
from asgi_llmgate.protocols import UpstreamRequest

__all__ = ["AwsSign", "Credentials", "GoogleSign", "aws_session", "google_credentials"]

SERVICE = "bedrock"
_REGION = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-[0-9])\.")

GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class Credentials(Protocol):
    """What of botocore's credentials is used."""

    def get_frozen_credentials(self) -> Any: ...


class AwsSign:
    """Sign requests to Bedrock with Signature Version 4. Source: AWS General Reference.

    Args:
        credentials: Returns those to sign with; may block on its first call.
        region: For hosts that do not tell theirs.
    """

    def __init__(
        self, credentials: Callable[[], Credentials | None], region: str | None = None
    ) -> None:
        self._find = credentials
        self._region = region
        self._credentials: Credentials | None = None

    async def __call__(self, request: UpstreamRequest) -> None:
        """Add the headers of the signature to `request`, whose body must be whole.

        Raises:
            UpstreamError: there are no credentials, or nobody knows the region.
        """
        frozen = await self._frozen()
        host = urlsplit(request.url).hostname or ""
        match = _REGION.search(host)
        region = match[1] if match else self._region
        if region is None:
            raise UpstreamError(
                "The gateway does not know the AWS region of this provider. The operator has to "
                "set LLMGATE_AWS__REGION.",
                code="upstream_auth",
            )
        request.headers = [*request.headers, *_signature(request, frozen, region)]

    async def _frozen(self) -> Any:
        if self._credentials is None:
            # Asks files, and where there are none the machine's metadata service.
            self._credentials = await asyncio.to_thread(self._find)
        if self._credentials is None:
            raise UpstreamError(
                "The gateway has no AWS credentials. The operator has to set them.",
                code="upstream_auth",
            )
        if hasattr(self._credentials, "refresh_needed"):
            # Those of a role are renewed by a request.
            return await asyncio.to_thread(self._credentials.get_frozen_credentials)
        return self._credentials.get_frozen_credentials()


def _signature(request: UpstreamRequest, frozen: Any, region: str) -> list[tuple[bytes, bytes]]:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    # Only what no server on the way changes is signed.
    signed = {
        name.decode(): value.decode("latin-1")
        for name, value in request.headers
        if name == b"content-type"
    }
    made = AWSRequest(request.method, request.url, headers=signed, data=request.body or b"")
    SigV4Auth(frozen, SERVICE, region).add_auth(made)
    return [
        (name.lower().encode(), value.encode("latin-1"))
        for name, value in made.headers.items()
        if name.lower() != "content-type"
    ]


def aws_session(
    *,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    profile: str | None = None,
) -> Callable[[], Credentials | None]:
    """Return what finds credentials: those given, else those of a profile, else botocore's chain.

    Raises:
        ConfigurationError: botocore is not installed.
    """
    try:
        import botocore.credentials
        import botocore.exceptions
        import botocore.session
    except ModuleNotFoundError:
        raise ConfigurationError(
            "Signing requests to Bedrock needs botocore, which is not installed.\n"
            'HINT: run `pip install "asgi-llmgate[bedrock]"`, or set AWS_BEARER_TOKEN_BEDROCK.'
        ) from None

    def find() -> Credentials | None:
        try:
            return look()
        except botocore.exceptions.BotoCoreError as error:  # a profile that is not there …
            raise UpstreamError(
                "The gateway cannot use its AWS credentials. The operator has to look at them "
                f"({type(error).__name__}).",
                code="upstream_auth",
            ) from None

    def look() -> Credentials | None:
        if access_key_id is not None and secret_access_key is not None:
            given: Credentials = botocore.credentials.Credentials(
                access_key_id, secret_access_key, session_token
            )
            return given
        found: Credentials | None = botocore.session.Session(profile=profile).get_credentials()
        return found

    return find


class GoogleSign:
    """Send Google's short-lived tokens, renewed when they are about to expire.

    Args:
        credentials: Returns google-auth's credentials; may block on its first call.
    """

    def __init__(self, credentials: Callable[[], Any]) -> None:
        self._find = credentials
        self._credentials: Any = None

    async def __call__(self, request: UpstreamRequest) -> None:
        """Add `Authorization` to `request`.

        Raises:
            UpstreamError: no token could be got.
        """
        if self._credentials is None or not self._credentials.valid:
            await asyncio.to_thread(self._renew)
        header = (b"authorization", b"Bearer " + self._credentials.token.encode())
        request.headers = [*request.headers, header]

    def _renew(self) -> None:
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        try:
            if self._credentials is None:
                self._credentials = self._find()
            if not self._credentials.valid:
                self._credentials.refresh(Request())
        except (GoogleAuthError, OSError, ValueError) as error:
            # Its text may hold an answer of the token service.
            raise UpstreamError(
                "The gateway got no token from Google. The operator has to look at its "
                f"credentials ({type(error).__name__}).",
                code="upstream_auth",
            ) from None


def google_credentials(path: str | None = None) -> Callable[[], Any]:
    """Return what finds credentials: of a service account's file, else the application default.

    A service account signs its tokens itself, so no request is made for them.

    Raises:
        ConfigurationError: google-auth is not installed.
    """
    try:
        import google.auth
        from google.oauth2 import service_account
    except ModuleNotFoundError:
        raise ConfigurationError(
            "Google's service accounts need google-auth, which is not installed.\n"
            'HINT: run `pip install "asgi-llmgate[vertex]"`.'
        ) from None

    def find() -> Any:
        if path is not None:
            return service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]  # google-auth has no annotation here
                path, scopes=[GOOGLE_SCOPE], always_use_jwt_access=True
            )
        found, _ = google.auth.default(scopes=[GOOGLE_SCOPE])
        return found

    return find
