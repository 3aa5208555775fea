"""Which base URLs need an operator, and what one URL of his says about all formats of a provider.

A provider that speaks several formats serves them at several paths of one host
(`…/v1beta` and `…/v1beta/openai`, `…/v1` and `…/anthropic/v1`). Settings give one URL. It may be

    the origin                    every format keeps the path of its row
    a base URL as the row has it  wherever it fits at the end, whatever comes before belongs to
                                  all formats (a proxy's prefix), and `{words}` in it are filled
                                  into the others
    anything else                 taken as it is for the first format, and for those at the very
                                  same place in the row; the others are off
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

__all__ = ["needs_operator", "rebased"]

_WORD = re.compile(r"\{([a-z_]+)\}")


def needs_operator(url: str) -> bool:
    """Tell whether `url` is a template or loopback, so that it means nothing by itself."""
    host = urlsplit(url).hostname or ""
    return "{" in url or host == "localhost" or host.startswith("127.")


def rebased(endpoints: Mapping[str, str], base_url: str) -> dict[str, str]:
    """Return `endpoints` as they are at `base_url`; those it says nothing about are left out.

    Args:
        endpoints: Wire format to base URL; templates and loopback included; not empty.
        base_url: The operator's, known to be well-formed.
    """
    given = urlsplit(base_url)
    origin, path = f"{given.scheme}://{given.netloc}", given.path.rstrip("/")
    paths = {wire_format: _path(url) for wire_format, url in endpoints.items()}
    if not path:
        return _filled(paths, origin, {})
    # The longest fit: `/v1` says more than the empty path of another format.
    for own in sorted(set(paths.values()), key=len, reverse=True):
        match = re.fullmatch(f"(.*){_pattern(own)}", path)
        if match is not None:
            return _filled(paths, origin + match[1], match.groupdict())
    first = next(iter(paths.values()))
    return {name: origin + path for name, own in paths.items() if own == first}


def _path(url: str) -> str:
    # Not by `urlsplit`, for a template is not yet a URL.
    return "/" + rest if (rest := url.partition("://")[2].partition("/")[2]) else ""


def _pattern(path: str) -> str:
    return "".join(
        f"(?P<{part}>[^/]+)" if at % 2 else re.escape(part)
        for at, part in enumerate(_WORD.split(path))
    )


def _filled(paths: Mapping[str, str], prefix: str, words: Mapping[str, str]) -> dict[str, str]:
    filled = {
        name: _WORD.sub(lambda match: words.get(match[1], match[0]), path)
        for name, path in paths.items()
    }
    return {name: prefix + path for name, path in filled.items() if "{" not in path}
