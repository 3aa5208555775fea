"""What the three clouds need beside a key: a place that is one's own, and requests that are signed.

Places come from the settings or from the variables that the clouds' own tools read:

    Bedrock   LLMGATE_AWS__REGION, AWS_REGION, AWS_DEFAULT_REGION
    Azure     AZURE_RESOURCE_NAME
    Vertex    GOOGLE_VERTEX_PROJECT, GOOGLE_CLOUD_PROJECT;
              GOOGLE_VERTEX_LOCATION, GOOGLE_CLOUD_LOCATION

A base URL of `providers.<id>` beats them. A bearer key beats signatures.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import replace

from pydantic import SecretStr

from asgi_llmgate.core.registry import Provider, ProviderKey
from asgi_llmgate.protocols import Sign
from asgi_llmgate.providers.registry import ProviderOverride
from asgi_llmgate.settings import Settings
from asgi_llmgate.types import Secret
from asgi_llmgate.upstream.sign import AwsSign, GoogleSign, aws_session, google_credentials

__all__ = ["CLOUDS", "completed", "signers_of"]

AWS_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")

# Words in the rows' templates, by the variables that tell them.
CLOUDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "amazon-bedrock": {"region": AWS_REGION},
    "azure-openai": {"resource": ("AZURE_RESOURCE_NAME",)},
    "google-vertex": {
        "project": ("GOOGLE_VERTEX_PROJECT", "GOOGLE_CLOUD_PROJECT"),
        "region": ("GOOGLE_VERTEX_LOCATION", "GOOGLE_CLOUD_LOCATION"),
    },
}

_WORD = re.compile(r"\{([a-z_]+)\}")
# A word becomes part of a host name, so it may not bring dots or slashes along.
_FIT = re.compile(r"[A-Za-z0-9-]{1,63}")


def completed(
    row: Provider, given: ProviderOverride, settings: Settings, environment: Mapping[str, str]
) -> ProviderOverride:
    """Return `given` with what the settings and the environment say of the cloud `row`."""
    if given.base_url is None and not given.formats:
        base_url = _place(row, settings, environment)
        if base_url is not None:
            given = replace(given, base_url=base_url)
    if given.keys:
        return given
    if row.id == "amazon-bedrock" and _has_aws(settings, environment):
        return replace(given, auth="sigv4", keys=(ProviderKey("aws", Secret("")),))
    if row.id == "google-vertex" and _google_file(settings, environment) is not None:
        return replace(given, keys=(ProviderKey("google", Secret("")),))
    return given


def signers_of(settings: Settings, environment: Mapping[str, str]) -> dict[str, Sign]:
    """Return what signs requests, by the rows' way of authentication.

    Raises:
        ConfigurationError: credentials are set, and the library that reads them is missing.
    """
    signers: dict[str, Sign] = {}
    if _has_aws(settings, environment):
        aws = settings.aws
        found = aws_session(
            access_key_id=aws.access_key_id,
            secret_access_key=_reveal(aws.secret_access_key),
            session_token=_reveal(aws.session_token),
            profile=aws.profile,
        )
        signers["sigv4"] = AwsSign(found, _region(settings, environment))
    path = _google_file(settings, environment)
    if path is not None:
        signers["gcp-oauth"] = GoogleSign(google_credentials(path or None))
    return signers


def _place(row: Provider, settings: Settings, environment: Mapping[str, str]) -> str | None:
    """Return the row's base URL with all words filled in; None if one is unknown."""
    words = {
        word: next((environment[name] for name in names if environment.get(name)), None)
        for word, names in CLOUDS[row.id].items()
    }
    if row.id == "amazon-bedrock":
        words["region"] = _region(settings, environment)
    for template in row.dormant.values():
        found = [words.get(word) for word in _WORD.findall(template)]
        if all(word is not None and _FIT.fullmatch(word) for word in found):
            return _WORD.sub(lambda match: words[match[1]] or "", template)
    return None


def _region(settings: Settings, environment: Mapping[str, str]) -> str | None:
    named = (environment[name] for name in AWS_REGION if environment.get(name))
    return settings.aws.region or next(named, None)


def _has_aws(settings: Settings, environment: Mapping[str, str]) -> bool:
    aws = settings.aws
    if aws.access_key_id is not None or aws.profile is not None or aws.default_chain:
        return True
    # The environment may be meant for something else, so it demands no library.
    has_keys = bool(
        environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY")
    )
    return has_keys and _is_installed("botocore")


def _google_file(settings: Settings, environment: Mapping[str, str]) -> str | None:
    """Return the path of a service account's key; "" for the application default."""
    if settings.google.credentials_file is not None:
        return str(settings.google.credentials_file)
    if settings.google.default_credentials:
        return ""
    is_there = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    # The application default reads that variable; it may also name other kinds of credentials.
    return "" if is_there and _is_installed("google.auth") else None


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package it is in
        return False


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
