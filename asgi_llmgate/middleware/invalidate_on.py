"""Outdate answers when the host application's own data changes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate.context import relative_path
from asgi_llmgate.errors import BackendError, ConfigurationError

__all__ = ["InvalidateOn"]

logger = logging.getLogger("asgi_llmgate")

RETRY_S = 1.0

_PARAMETER = re.compile(r"\{(\w+)\}|\*")


class Invalidates(Protocol):
    """`gate.cache`, or anything like it."""

    async def invalidate(self, *tags: str) -> None: ...


class _Rule(NamedTuple):
    methods: frozenset[str]
    path: re.Pattern[str]
    tags: tuple[str, ...]


class InvalidateOn:
    """Invalidate tags when a request of the host's own succeeds.

        app.add_middleware(
            InvalidateOn,
            rules={"POST|PUT|PATCH|DELETE /products*": ["kb:products"]},
            cache=gate.cache,
        )

    `*` in a path matches anything, `{name}` one segment, which a tag may repeat: `"PUT
    /products/{id}": ["product:{id}"]`. Case does not count, for some routers ignore it.

    The head of a 2xx answer waits until the invalidation is acknowledged, so that who has seen it
    gets no old answer. Frameworks may commit after they answered, so the tags are invalidated once
    more when the application has returned. A store that is down keeps no answer of the host back:
    the invalidation is tried again until it is acknowledged, and said to be late in the log.

    Args:
        app: The host application.
        rules: Methods joined by `|`, a blank, a path; to tags.
        cache: `gate.cache`.

    Raises:
        ConfigurationError: a rule cannot be read.
    """

    def __init__(
        self, app: ASGIApp, rules: Mapping[str, Sequence[str]], *, cache: Invalidates
    ) -> None:
        self.app = app
        self.cache = cache
        self._rules = [_rule(text, tags) for text, tags in rules.items()]
        self._late: set[str] = set()
        self._retry: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tags = self._tags(scope) if scope["type"] == "http" else ()
        if not tags:
            await self.app(scope, receive, send)
            return
        succeeded = False

        async def watched(message: Message) -> None:
            nonlocal succeeded
            if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
                succeeded = True
                await self._invalidate(tags)
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            if succeeded:
                await self._invalidate(tags)

    def _tags(self, scope: Scope) -> tuple[str, ...]:
        method: str = scope["method"]
        found: dict[str, None] = {}
        path = relative_path(scope)
        for rule in self._rules:
            match = rule.path.fullmatch(path) if method in rule.methods else None
            if match is not None:
                for tag in rule.tags:
                    found[_filled(tag, match.groupdict())] = None
        return tuple(found)

    async def _invalidate(self, tags: tuple[str, ...]) -> None:
        try:
            await self.cache.invalidate(*tags)
        except BackendError as error:
            logger.error("Tags %s are invalidated late: %s", ", ".join(tags), error)
            self._late.update(tags)
            if self._retry is None or self._retry.done():
                self._retry = asyncio.get_running_loop().create_task(_again(self._catch_up))

    async def _catch_up(self) -> None:
        late = tuple(self._late)
        await self.cache.invalidate(*late)
        self._late.difference_update(late)


async def _again(act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(RETRY_S)
        try:
            await act()
        except BackendError:
            continue
        return


def _rule(text: str, tags: Sequence[str]) -> _Rule:
    methods, _, path = text.strip().partition(" ")
    path = path.strip()
    names = set(re.findall(r"\{(\w+)\}", path))
    asked = {name for tag in tags for name in re.findall(r"\{(\w+)\}", tag)}
    if not path.startswith("/") or not tags or isinstance(tags, str) or not asked <= names:
        raise ConfigurationError(
            f"InvalidateOn cannot read the rule {text!r}.\n"
            'HINT: write "POST|PUT /products*": ["kb:products"]; a tag may only repeat the {names} '
            "of its path."
        )
    pattern, end = "", 0
    for found in _PARAMETER.finditer(path):
        pattern += re.escape(path[end : found.start()])
        pattern += f"(?P<{found[1]}>[^/]+)" if found[1] else ".*"
        end = found.end()
    pattern += re.escape(path[end:])
    return _Rule(
        frozenset(method.strip().upper() for method in methods.split("|")),
        re.compile(pattern, re.IGNORECASE | re.DOTALL),
        tuple(tags),
    )


def _filled(tag: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], tag)
