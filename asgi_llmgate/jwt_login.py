"""Log in by JSON Web Token: `jwt(secret=…)` or `jwt(jwks_url=…)`.

Who may sign, and how, is decided here and never by the token: its `alg` is only looked up in the
list of those that fit the key (RFC 8725 §3.1). A token that was verified is remembered for a minute
by the HMAC of all of it, so that its signature is not computed for each call.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asgi_llmgate.core.credentials import looks_like_jwt
from asgi_llmgate.errors import AuthenticationError, ConfigurationError
from asgi_llmgate.jwks import KeySet
from asgi_llmgate.protocols import Authenticate
from asgi_llmgate.types import Principal, PrincipalKind, Secret

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

__all__ = ["jwt"]

SYMMETRIC = ("HS256", "HS384", "HS512")
ASYMMETRIC = tuple(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512))
ASYMMETRIC = (*ASYMMETRIC, "EdDSA")

REMEMBERED_S = 60.0
MAX_REMEMBERED = 10_000
LEEWAY_S = 60.0


def jwt(
    *,
    secret: str | Secret | None = None,
    jwks_url: str | None = None,
    audience: str | Sequence[str] | None = None,
    issuer: str | None = None,
    algorithms: Sequence[str] | None = None,
    header: str = "Authorization",
    tenant: str | Callable[[dict[str, Any]], str] = "app",
    user_claim: str = "sub",
    clock: Callable[[], float] = time.time,
) -> Authenticate:
    """Take the user whom a signed token names, sent as `Authorization: Bearer`.

    A token needs `exp` and the claim that names the user. Needs PyJWT, and for `jwks_url` the
    package cryptography: the extra `standalone` has both.

    Args:
        secret: Shared by who signs and this gateway; 32 bytes or more for HS256.
        jwks_url: Where the public keys are: fetched with the first token, and again when a token
            names a key that is not among them.
        audience: The `aud` that tokens must have. Tokens that have one are refused without.
        issuer: The `iss` that tokens must have. Those of others are left to other logins.
        algorithms: Defaults to HS256 with a secret, and RS256 and ES256 with public keys.
        header: Where the token is.
        tenant: A name, or a function of the claims.
        user_claim: The claim that names the user.
        clock: Seconds since the epoch.

    Raises:
        ConfigurationError: neither or both of `secret` and `jwks_url`, algorithms that do not fit
            them, or a secret that is too short.
    """
    if (secret is None) == (jwks_url is None):
        raise ConfigurationError("jwt: give `secret` or `jwks_url`.\nHINT: one of them, not both.")
    possible = SYMMETRIC if secret is not None else ASYMMETRIC
    chosen = tuple(algorithms or (("HS256",) if secret is not None else ("RS256", "ES256")))
    if unfit := [name for name in chosen if name not in possible]:
        kind = "a secret" if secret is not None else "public keys"
        raise ConfigurationError(
            f"jwt: the algorithm {unfit[0]!r} does not go with {kind}: whoever knows a public key "
            f"could sign with it.\nHINT: possible are {', '.join(possible)}."
        )
    text = secret.reveal() if isinstance(secret, Secret) else secret
    # As long as the digest, says RFC 7518 §3.2.
    needed = max((int(name[2:]) // 8 for name in chosen if name in SYMMETRIC), default=0)
    if text is not None and len(text.encode()) < needed:
        raise ConfigurationError(
            f"jwt: the secret is shorter than {needed} bytes, and can be guessed.\n"
            "HINT: make one with `openssl rand -hex 64`, and sign with it."
        )
    keys = KeySet(jwks_url) if jwks_url is not None else None
    return _TokenLogin(
        secret=text,
        keys=keys,
        algorithms=chosen,
        audience=audience,
        issuer=issuer,
        header=header,
        tenant=tenant,
        user_claim=user_claim,
        clock=clock,
    )


class _TokenLogin:
    """The `Authenticate` that `jwt` returns."""

    def __init__(
        self,
        *,
        secret: str | None,
        keys: KeySet | None,
        algorithms: tuple[str, ...],
        audience: str | Sequence[str] | None,
        issuer: str | None,
        header: str,
        tenant: str | Callable[[dict[str, Any]], str],
        user_claim: str,
        clock: Callable[[], float],
    ) -> None:
        self._secret = secret
        self._keys = keys
        self._algorithms = algorithms
        self._audience = audience
        self._issuer = issuer
        self._header = header
        self._tenant = tenant
        self._user_claim = user_claim
        self._clock = clock
        self._remembered: dict[bytes, tuple[float, Principal]] = {}
        self._digest_key = os.urandom(32)

    async def __call__(self, request: HTTPConnection, /) -> Principal | None:
        scheme, _, token = request.headers.get(self._header, "").strip().partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else scheme
        if not looks_like_jwt(token):
            return None
        # All of the token: two that begin alike are two (rule R2).
        digest = hmac.digest(self._digest_key, token.encode(), "sha256")
        now_s = self._clock()
        known = self._remembered.get(digest)
        if known is not None and now_s < known[0]:
            return known[1]
        claims = await self._claims(token, now_s)
        if claims is None:
            return None
        principal = self._principal(claims)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        until_s = min(now_s + REMEMBERED_S, float(claims["exp"]) + LEEWAY_S)
        self._remembered[digest] = (until_s, principal)
        return principal

    def _principal(self, claims: dict[str, Any]) -> Principal:
        user = claims.get(self._user_claim)
        if not isinstance(user, str | int) or isinstance(user, bool) or not str(user):
            raise AuthenticationError(f"The token has no {self._user_claim!r} that names a user.")
        tenant = self._tenant if isinstance(self._tenant, str) else self._tenant(claims)
        return Principal(tenant, PrincipalKind.HOST, str(user), user_id=str(user))

    async def _claims(self, token: str, now_s: float) -> dict[str, Any] | None:
        """Return what `token` says, verified; None if it is somebody else's.

        Raises:
            AuthenticationError: it is wrong, or expired.
        """
        import jwt as pyjwt

        try:
            head = pyjwt.get_unverified_header(token)
            if head.get("alg") not in self._algorithms:
                raise AuthenticationError("The token is signed in a way that is not taken here.")
            if self._issuer is not None and self._stranger(token):
                return None
            key: Any = self._secret
            if self._keys is not None:
                key = await self._keys.find(head.get("kid"), head["alg"], now_s=now_s)
                if key is None:
                    raise AuthenticationError("The key that signed the token is not known here.")
            # Times are compared below: PyJWT would look at a clock of its own.
            claims: dict[str, Any] = pyjwt.decode(
                token,
                key,
                algorithms=[head["alg"]],
                audience=self._audience,
                issuer=self._issuer,
                options={
                    "require": ["exp", self._user_claim],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except pyjwt.MissingRequiredClaimError as error:
            raise AuthenticationError(f"The token has no {error.claim!r}.") from None
        except pyjwt.InvalidAudienceError:
            raise AuthenticationError("The token is for another audience.") from None
        except pyjwt.PyJWTError:
            raise AuthenticationError("The signature of the token is wrong.") from None
        _check_times(claims, now_s)
        return claims

    def _stranger(self, token: str) -> bool:
        import jwt as pyjwt

        claims = pyjwt.decode(token, options={"verify_signature": False})
        return claims.get("iss") != self._issuer


def _check_times(claims: dict[str, Any], now_s: float) -> None:
    for name in ("exp", "nbf", "iat"):
        moment = claims.get(name)
        if moment is None:
            continue
        if isinstance(moment, bool) or not isinstance(moment, int | float):
            raise AuthenticationError(f"The {name!r} of the token is not a time.")
        if name == "exp" and moment + LEEWAY_S <= now_s:
            raise AuthenticationError("The login has expired. Log in again.", code="key_expired")
        if name != "exp" and moment - LEEWAY_S > now_s:
            raise AuthenticationError("The token is not valid yet.")
