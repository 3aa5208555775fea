"""The one object a request carries through the stack, under `scope["llmgate"]`.

It is shared by reference, so an outer middleware still sees what an inner one wrote even where
something between them copied the scope.

Each field has exactly one writer:

field             written by              read by
----------------  ----------------------  ---------------------------------------------
id                outermost middleware,   everyone
                  TaggingMiddleware
started_*         outermost middleware    everyone
headers, route    outermost middleware    everyone
body              outermost middleware    everyone who needs it
directives        first reader,           everyone who honours a header
                  PolicyMiddleware
principal         AuthMiddleware          policy, tagging, limits, cache, dispatch, log
caller_key        AuthMiddleware          dispatch
policy            PolicyMiddleware        tagging, dispatch, response headers
signed_user       policy, else tagging    policy, tagging
tags              TaggingMiddleware       limits, cache, log
cache, cache_*,   CacheMiddleware         log, response headers
original_id,
saved_*
prompt_*          PromptMiddleware        cache
attempts          FallbackMiddleware,     log, response headers
                  else dispatch
attempt           FallbackMiddleware      dispatch (writes the provider's headers into it)
fallback_index    FallbackMiddleware      response headers
model_requested,  dispatch, else log;     log, response headers
target_*,         FallbackMiddleware of
is_stream         calls nobody takes
is_attempting     dispatch                response headers
billed_model      dispatch                limits (settlement), log
usage, cost,      whoever calls the       limits (settlement), log
metered,          provider: dispatch,
complete, timing  else LoggingMiddleware
earlier_*         FallbackMiddleware      limits (settlement), log
client_left       dispatch                log
error_code        whoever answers errors  log
warnings          anyone (append only)    response headers
trail             GatewayMiddleware       GatewayMiddleware (order check)
"""

from __future__ import annotations

import time

from starlette.types import Receive, Scope

from asgi_llmgate._asgi.body import RequestBody
from asgi_llmgate.core.directives import DEFAULT, Directives, parse_directives
from asgi_llmgate.core.ids import new_id
from asgi_llmgate.core.key_pool import Chosen
from asgi_llmgate.core.policy import Rule
from asgi_llmgate.protocols import Price
from asgi_llmgate.types import (
    AttemptRecord,
    CacheStatus,
    CallerKey,
    Principal,
    Route,
    Tags,
    Usage,
)

__all__ = ["ACTING", "SCOPE_KEY", "GatewayContext", "first_headers", "relative_path"]

SCOPE_KEY = "llmgate"
ACTING = "llmgate.principal"
"""Where code of this very process says for whom it calls. No request from outside can."""


class GatewayContext:
    """Everything the stack knows about one request. Not thread-safe; one event loop."""

    __slots__ = (
        "_directives",
        "attempt",
        "attempts",
        "billed_model",
        "body",
        "cache",
        "cache_reason",
        "cache_similarity",
        "caller_key",
        "client_left",
        "complete",
        "cost_nanousd",
        "earlier_nanousd",
        "earlier_tokens",
        "error_code",
        "fallback_index",
        "first_byte_ns",
        "headers",
        "id",
        "is_attempting",
        "is_stream",
        "metered",
        "model_requested",
        "original_id",
        "policy",
        "principal",
        "prompt_digest",
        "prompt_epoch",
        "route",
        "saved_ms",
        "saved_nanousd",
        "signed_user",
        "started_at_us",
        "started_ns",
        "tags",
        "target_model",
        "target_provider",
        "trail",
        "upstream_started_ns",
        "usage",
        "warnings",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        route: Route,
        headers: dict[bytes, bytes] | None = None,
    ) -> None:
        self.started_ns: int = time.perf_counter_ns()
        self.started_at_us: int = time.time_ns() // 1000
        self.id: str = new_id(self.started_at_us // 1000)
        # Names in lower case (Django and raw ASGI drivers may send others). The first of a
        # repeated header counts; hygiene refuses repeats of those that matter.
        if headers is None:
            headers = first_headers(scope)
        self.headers = headers
        self.route = route
        self.body = RequestBody(receive)
        self._directives: Directives | None = None
        self.principal: Principal | None = None
        self.policy: Rule | None = None
        # The user that a signature proves; "" if none does, None if nobody has looked yet.
        self.signed_user: str | None = None
        self.caller_key: CallerKey | None = None
        self.tags: Tags | None = None
        # The prompt template that was rendered into the body: its content address, and a number
        # that is raised whenever one of its labels moves.
        self.prompt_digest: str | None = None
        self.prompt_epoch: int | None = None
        self.cache: CacheStatus | None = None
        # Why the cache had no part in the call, or had less than it could.
        self.cache_reason: str | None = None
        # Cosine with the nearest question of those that were compared by meaning.
        self.cache_similarity: float | None = None
        # Of an answer that was paid for by another call: that call, what it cost, how long it took.
        self.original_id: str | None = None
        self.saved_nanousd: int | None = None
        self.saved_ms: float | None = None
        self.attempts: list[AttemptRecord] = []
        # How the attempt that runs is made; None leaves it to dispatch.
        self.attempt: Chosen | None = None
        # Which of several targets answered; 0 is the first that was to be tried.
        self.fallback_index: int | None = None
        self.model_requested: str | None = None
        self.target_provider: str | None = None
        self.target_model: str | None = None
        # The model that the provider was asked for, where `Model-Override` names another.
        self.billed_model: str | None = None
        self.is_stream = False
        self.metered = False
        self.usage: Usage | None = None
        self.cost_nanousd: int | None = None
        # What attempts took whose answers nobody got.
        self.earlier_nanousd = 0
        self.earlier_tokens = 0
        self.complete = False
        self.client_left = False
        self.upstream_started_ns: int | None = None
        self.is_attempting = False
        self.first_byte_ns: int | None = None
        self.error_code: str | None = None
        self.warnings: list[str] | None = None
        self.trail: list[type] = []

    @property
    def directives(self) -> Directives:
        """What the `LLMGate-*` and `Helicone-*` headers ask for.

        Raises:
            InvalidRequestError: an `LLMGate-*` header is malformed or unknown.
        """
        if self._directives is None:
            self._directives = parse_directives(self.headers)
            for warning in self._directives.warnings:
                self.warn(warning)
        return self._directives

    @directives.setter
    def directives(self, settled: Directives) -> None:
        self._directives = settled

    @property
    def directives_or_default(self) -> Directives:
        """The directives as far as somebody has read them; never raises."""
        return self._directives or DEFAULT

    def set_cost(self, price: Price | None) -> None:
        """Price what was used, once: the answer, and the attempts before it."""
        usage, provider, model = self.usage, self.target_provider, self.target_model
        if self.cost_nanousd is not None or price is None or usage is None or provider is None:
            return
        cost = None if model is None else price(provider, model, usage)
        if cost is None and self.billed_model is not None:
            cost = price(provider, self.billed_model, usage)
        if self.earlier_nanousd:
            cost = (cost or 0) + self.earlier_nanousd
        self.cost_nanousd = cost

    def warn(self, text: str) -> None:
        """Add a line to the `LLMGate-Warnings` response header."""
        if self.warnings is None:
            self.warnings = []
        self.warnings.append(text)


def first_headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers by lower-case name, the first of each."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.lower(), value)
    return headers


def relative_path(scope: Scope) -> str:
    """Return the path below the mount point, decoded, as every decision sees it.

    Only `scope["path"]` is read, never `Host` or a URL rebuilt from it (rule R1). Starlette
    leaves the mount point in `path`; others cut it off, so it is cut only where present.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/"):
        return path[len(root) :] or "/"
    return path
