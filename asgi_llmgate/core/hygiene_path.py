"""Refuse paths that two parts could read differently: dots, slashes, encodings.

A decision is made on the decoded path, the provider gets the path as it was sent. So both are
looked at, each by itself; `core/routes.py` copies from the second only what decodes to the first.

Sources: RFC 3986 §5.2.4 (dot segments), RFC 9112 §3.2 (request target).
"""

from __future__ import annotations

import re
from string import ascii_letters, digits
from urllib.parse import unquote

from asgi_llmgate.errors import InvalidRequestError

__all__ = ["MAX_TARGET_BYTES", "check_path"]

# Twice nginx's default for a request line. The longest ids (Bedrock ARNs, file names) need 2 KiB,
# and no server but h11 has a limit of its own.
MAX_TARGET_BYTES = 16 * 1024

_VISIBLE = bytes(range(0x21, 0x7F))
# Without dots: a path of these only, and no double slash, needs no closer look.
_PLAIN_PATH = b"/:-_~" + (ascii_letters + digits).encode()
_BAD_RAW = re.compile(rb"[^\x21-\x7e]|#")
# After decoding: empty and dot segments (`..;` is one to Java servers), backslash, control
# characters, bytes that were no UTF-8, and what a second decoding would turn into any of these.
_BAD_PATH = re.compile(
    r"//|/\.\.?(?:[/;]|\Z)|[\\\x00-\x1f\x7f\ufffd]|%(?:2[ef5]|5c|00)", re.IGNORECASE
)
_ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)


def check_path(
    path: str, raw_path: bytes | None, root_path: str = "", query_string: bytes = b""
) -> None:
    """Raise `InvalidRequestError` for a path or query that two parts could read differently.

    Args:
        path: Percent-decoded, as decisions see it.
        raw_path: As sent, with or without the query; None if the server does not tell, then an
            encoded slash cannot be told from a plain one.
        root_path: The mount point, in case `path` and `raw_path` begin with it.
        query_string: Looked at for its characters and length only.
    """
    if query_string and query_string.translate(None, _VISIBLE):
        raise _bad_path()
    if len(path) + len(query_string) > MAX_TARGET_BYTES:
        raise InvalidRequestError(
            f"Path and query are longer than {MAX_TARGET_BYTES} bytes.", code="unknown_route"
        )
    if raw_path is None:
        _check_decoded(path, root_path)
    elif (
        raw_path.translate(None, _PLAIN_PATH)
        or b"//" in raw_path
        or path[:1] != "/"
        or raw_path.decode() != path
    ):
        _check_odd_path(path, raw_path.partition(b"?")[0], root_path)


def _check_odd_path(path: str, raw_path: bytes, root_path: str) -> None:
    if not raw_path.startswith(b"/") or _BAD_RAW.search(raw_path):
        raise _bad_path()
    _check_decoded(unquote(raw_path.decode()), "")
    _check_decoded(path, root_path)
    if _ENCODED_SLASH.search(raw_path):
        _check_encoded_slashes(raw_path, root_path)


def _check_decoded(path: str, root_path: str) -> None:
    # Hosts that cut the mount point off may leave nothing.
    if not path.startswith("/") and (path or not root_path):
        raise _bad_path()
    if _BAD_PATH.search(path):
        raise _bad_path()


def _check_encoded_slashes(raw_path: bytes, root_path: str) -> None:
    """Allow them in one id segment of the routes whose ids have slashes, and nowhere else."""
    relative = raw_path.removeprefix(root_path.encode())
    first, *segments = relative.split(b"/")
    at = [index for index, segment in enumerate(segments) if _ENCODED_SLASH.search(segment)]
    before = segments[: at[0]] if len(at) == 1 and not first else []
    after = len(segments) - len(before) - 1
    match before:
        case [b"models"] | [b"v1" | b"v1beta", b"models"] if after == 0:
            return
        case [b"model"] if after == 1:
            return
        case [b"providers", _, *_]:
            return
    raise InvalidRequestError(
        "The path has an encoded slash (%2F). It may stand in the id of /v1/models/{id}, of "
        "/model/{id}/… and of paths below /providers/{id}/ only.",
        code="unknown_route",
    )


def _bad_path() -> InvalidRequestError:
    return InvalidRequestError(
        "The path is ambiguous: it must begin with one slash and hold no empty or dot segment, "
        "backslash, control character, fragment or second layer of percent-encoding.",
        code="unknown_route",
    )
