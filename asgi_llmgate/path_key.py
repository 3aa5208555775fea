"""A gateway key as the first segment of the path: `/lg_…/v1/chat/completions`.

For tools that let one set a base URL and no header. Off unless the settings say otherwise: paths
end up in the logs of proxies and in histories.
"""

from __future__ import annotations

import re

from starlette.types import Scope

__all__ = ["masked", "with_path_key"]

# Helicone's users may have one of its keys there; it counts as `Helicone-Auth`.
_KEY = re.compile(r"/(lg_[^/]+|[sp]k-helicone-[^/]+)(?=/)")


def with_path_key(scope: Scope) -> Scope:
    """Return `scope` with the key of its path in a header, and as if mounted behind the key.

    A header that is there already counts instead of the path, which loses its key all the same.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    # Starlette leaves the mount point in the path; other hosts cut it off.
    mounted = root if root and path.startswith(root + "/") else ""
    match = _KEY.match(path, len(mounted))
    if match is None:
        return scope
    key = match[1]
    name = b"llmgate-auth" if key.startswith("lg_") else b"helicone-auth"
    headers = list(scope["headers"])
    if not any(known.lower() == name for known, _ in headers):
        headers.append((name, key.encode()))
    return {**scope, "root_path": mounted + match[0], "headers": headers}


def masked(path: str) -> str:
    """Return `path` with a key in it made unreadable, for messages."""
    return _KEY.sub("/***", path)
