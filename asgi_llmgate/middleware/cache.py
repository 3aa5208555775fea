"""Give an answer that was paid for once again, only while it is true.

    ask ─ bypass? ─ key ─ read ─┬─ FRESH ─────────▶ HIT
                                ├─ SOFT ──────────▶ STALE, then ask the provider for a new one
                                ├─ same call runs ▶ its bytes, as they come (collapsed)
                                └─ nothing ───────▶ MISS: ask, pass on, keep if it is whole

Generations are read before the provider is asked, and compared whenever the answer is given or
joined, so that what was made from old data is never given once an invalidation was acknowledged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_llmgate._asgi.dependencies import said_tags
from asgi_llmgate.context import GatewayContext
from asgi_llmgate.core.cache_entry import Entry
from asgi_llmgate.core.cache_headers import cache_headers
from asgi_llmgate.core.cache_key import NOT_IN_KEY, Question, cache_key, partition
from asgi_llmgate.core.cache_plan import CachePolicy, Plan, dependencies, plan
from asgi_llmgate.core.directives import DEFAULT
from asgi_llmgate.errors import BackendError, NotCachedError
from asgi_llmgate.middleware._base import GatewayMiddleware
from asgi_llmgate.middleware._cache_ask import Asked, ask
from asgi_llmgate.middleware._cache_call import Call, Running
from asgi_llmgate.middleware.semantic import SemanticTier
from asgi_llmgate.protocols import CacheStore, Price
from asgi_llmgate.types import CacheStatus, PrincipalKind

__all__ = ["CacheMiddleware", "by_tenant"]

logger = logging.getLogger("asgi_llmgate")

Namespace = Callable[[GatewayContext, Scope], str | None]

# A key of one's own that was good so long ago may have been revoked since.
PROVEN_S = 600.0
MAX_PROVEN = 10_000

QUIET_S = 10.0

# For an operator who gives none: others who read the store could guess at questions.
PUBLIC_SECRET = b"asgi_llmgate cache without a secret"


def by_tenant(context: GatewayContext, scope: Scope) -> str | None:
    """Keep tenants apart. Who is nobody shares nothing with anybody."""
    principal = context.principal
    if principal is None:
        return None
    # A configured name could look like that of a caller known by his provider key only.
    kind = "byok" if principal.kind is PrincipalKind.BYOK else "own"
    return f"{kind}:{principal.tenant}"


class CacheMiddleware(GatewayMiddleware):
    """Serve stored answers; store whole ones.

    Alone: in front of any endpoint of OpenAI's, Anthropic's or Gemini's shape; `namespace` says
    whose answers may be shared. Stacked: that is the tenant. A store that fails costs a miss.

    Args:
        app: The application inside.
        store: Where answers are kept. Yours to close.
        secret: Keys and entries are signed with it: the same for all who share the store. None
            takes a public one, which is enough for a store that nobody else reads or writes.
        policy: What is allowed and how long answers live.
        namespace: A name, or a function of context and scope; None from it bypasses the cache.
        proves: The application inside checks the key that makes the namespace, so that answers
            are given only for 10 minutes after it took that key. Always so for callers known by
            a provider key of their own.
        semantic: Also answers questions that mean the same; None serves the very same only.
        price: Says what a stored answer saved.
        left_out: Fields of the body that do not tell requests apart.
        vary: Names of further request headers that do.
        data_versions: Of the data behind the answers: other versions, other answers.
        lease_s: How long another worker may be silent before one asks the provider oneself.
        wait_s: How long one waits for another worker at all.
        max_bytes: Larger answers are passed on, and not kept.
        clock_us: Microseconds since the epoch.
        paths: Endpoints of one's own, for example `{"/api/chat": "openai-chat"}`.
    """

    must_be_inside = ("LoggingMiddleware", "AuthMiddleware", "TaggingMiddleware")

    def __init__(
        self,
        app: ASGIApp,
        *,
        store: CacheStore,
        secret: bytes | None = None,
        policy: CachePolicy = CachePolicy(),  # noqa: B008 -- frozen
        namespace: Namespace | str = by_tenant,
        proves: bool = False,
        semantic: SemanticTier | None = None,
        price: Price | None = None,
        left_out: Collection[str] = NOT_IN_KEY,
        vary: Collection[str] = (),
        data_versions: Sequence[str] = (),
        lease_s: float = 5.0,
        wait_s: float = 15.0,
        max_bytes: int = 8 * 1024 * 1024,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(app, paths=paths)
        self.store = store
        self.policy = policy
        self.namespace = namespace
        self.proves = proves
        self.price = price
        self.semantic = semantic
        self.lease_s = lease_s
        self.wait_s = wait_s
        self.max_bytes = max_bytes
        self.clock_us = clock_us
        self.secret = PUBLIC_SECRET if secret is None else secret
        self._left_out = frozenset(left_out)
        self._vary = tuple(sorted(name.lower().encode() for name in vary))
        self._data_versions = tuple(data_versions)
        self.flights: dict[tuple[object, ...], Running] = {}
        self._proven: dict[tuple[str, str | None], float] = {}
        self._plan = plan(DEFAULT, policy)
        self._partitions: dict[str, str] = {}
        self._quiet_until_s = 0.0

    async def handle(
        self, context: GatewayContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if not self.policy.is_on and context.directives is DEFAULT:
            await self.app(scope, receive, send)
            return
        asked = await ask(context, scope)
        if isinstance(asked, str):
            await self._pass_by(Plan(asked), context, scope, receive, send)
            return
        receive = context.body.replay(receive)
        directives = context.directives
        wanted = self._plan if directives is DEFAULT else plan(directives, self.policy)
        given = self.namespace
        namespace = given if isinstance(given, str) else given(context, scope)
        if not namespace:
            wanted = wanted._replace(bypass=wanted.bypass or "no-namespace")
        if wanted.bypass is not None or not namespace:
            await self._pass_by(wanted, context, scope, receive, send, namespace=namespace)
            return
        if self.semantic is None and directives.cache_mode in ("semantic", "threshold"):
            context.warn("the semantic cache is not installed here; the exact one answers")
        call = self._call(context, scope, asked, namespace, wanted)
        await call.run(receive, send)

    def _call(
        self, context: GatewayContext, scope: Scope, asked: Asked, namespace: str, wanted: Plan
    ) -> Call:
        secret = self.secret
        key = cache_key(secret, self.question(context, asked, namespace))
        part = self._partitions.get(namespace)
        if part is None:
            if len(self._partitions) >= MAX_PROVEN:
                self._partitions.clear()
            part = self._partitions[namespace] = partition(secret, namespace)
        tags = context.tags
        names = dependencies(
            partition=part,
            model=asked.model,
            user=tags.user_id if tags is not None else None,
            prompt=context.directives.prompt_id,
            tags=(*self.policy.tags, *context.directives.cache_tags, *said_tags()),
        )
        return Call(self, context, scope, asked, wanted, namespace, key, part, names)

    def question(self, context: GatewayContext, asked: Asked, namespace: str) -> Question:
        """Return everything that an answer depends on."""
        return asked.question(
            context,
            namespace,
            left_out=self._left_out,
            vary=self._vary,
            data_versions=self._data_versions,
        )

    async def _pass_by(
        self,
        wanted: Plan,
        context: GatewayContext,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        namespace: str | None = None,
    ) -> None:
        if wanted.only_if_cached:
            raise NotCachedError("There is no stored answer, and only one was asked for.")
        context.cache, context.cache_reason = CacheStatus.BYPASS, wanted.bypass
        headers: list[tuple[bytes, bytes]] | None = None
        if wanted.bypass not in ("off", "route"):
            headers = cache_headers(
                CacheStatus.BYPASS,
                reason=wanted.bypass,
                key=None,
                for_helicone=context.directives.uses_helicone,
            )
        else:
            # Nobody asked for a cache, so nothing is said of it.
            context.cache = None
        status: int | None = None

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if headers is not None:
                    message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await self.app(scope, receive, marked)
        self.prove(context, namespace, status)

    def complain(self, text: str, error: BackendError) -> None:
        """Log what failed, not more than once in 10 s: a store that is down fails every call."""
        now = time.monotonic()
        if now >= self._quiet_until_s:
            self._quiet_until_s = now + QUIET_S
            logger.warning("%s: %s", text, error)

    def prove(self, context: GatewayContext, namespace: str | None, status: int | None) -> None:
        """Note that a provider has just taken the caller's own key."""
        if namespace is None or not self._must_prove(context):
            return
        if status is not None and 200 <= status < 300:
            proof = namespace, context.target_provider
            self._proven.pop(proof, None)
            self._proven[proof] = time.monotonic()
            if len(self._proven) > MAX_PROVEN:
                del self._proven[next(iter(self._proven))]

    def may_read(self, context: GatewayContext, namespace: str, entry: Entry) -> bool:
        """Tell whether the caller's own key still proved good where the answer came from."""
        if not self._must_prove(context):
            return True
        proven = self._proven.get((namespace, entry.provider))
        return proven is not None and time.monotonic() - proven <= PROVEN_S

    def _must_prove(self, context: GatewayContext) -> bool:
        principal = context.principal
        return self.proves or (principal is not None and principal.kind is PrincipalKind.BYOK)
