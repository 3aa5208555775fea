"""The whole stack in one ASGI application, mounted into another or standing alone.

    hygiene → routes ─┬─ /healthz /readyz /metrics                       (api/)
                      ├─ /llmgate/api/v1/*                               (api/)
                      └─ logging → auth → policy → tagging → limits → cache → fallback → dispatch

Building one does no I/O: files, connections and threads come with the first call that needs
them, so a gateway may be built at import time, and it works where no lifespan event arrives.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from importlib import import_module
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_llmgate._asgi.lifespan import on_sigterm, serve_lifespan
from asgi_llmgate._asgi.respond import send_plain_error
from asgi_llmgate.acting import acting_as, acting_principal
from asgi_llmgate.api.budgets import budget_routes
from asgi_llmgate.api.cache import cache_routes
from asgi_llmgate.api.ingest import ingest_routes
from asgi_llmgate.api.keys import key_routes
from asgi_llmgate.api.learned import learned_routes
from asgi_llmgate.api.operations import Operations
from asgi_llmgate.api.router import API_PREFIX, AdminApi, AdminRoute
from asgi_llmgate.api.upstreams import upstream_families, upstream_routes
from asgi_llmgate.assemble import (
    board_of,
    cache_policy_of,
    cache_secret_of,
    cache_store_of,
    control_of,
    journal_of,
    limit_store_of,
    limits_of,
    prices_of,
    registry_of,
    request_ids_of,
    secrets_of,
    targets_of,
    timeouts_of,
    webhooks_of,
)
from asgi_llmgate.backends.batching import BatchingSink
from asgi_llmgate.backends.metrics import Metrics
from asgi_llmgate.backends.upstreams_shared import Board, SharedHealth
from asgi_llmgate.budgets import BudgetAlerts, Budgets
from asgi_llmgate.cache import Cache
from asgi_llmgate.client.in_process import in_process_client
from asgi_llmgate.clouds import signers_of
from asgi_llmgate.config_check import check_settings
from asgi_llmgate.context import SCOPE_KEY, GatewayContext, first_headers, relative_path
from asgi_llmgate.control import Control
from asgi_llmgate.core.cache_key import ATTRIBUTION, NOT_IN_KEY
from asgi_llmgate.core.credentials import StaticKeys
from asgi_llmgate.core.health import Health
from asgi_llmgate.core.policy import RoutePolicy
from asgi_llmgate.core.registry import Registry
from asgi_llmgate.core.routes import match_route
from asgi_llmgate.dispatch import Dispatch
from asgi_llmgate.errors import BackendError, ConfigurationError, UnknownRouteError
from asgi_llmgate.keyfile import admin_token
from asgi_llmgate.learned import Learned
from asgi_llmgate.logs import configure_logging, hide_keys_in_access_log
from asgi_llmgate.middleware._login import HostLogin
from asgi_llmgate.middleware._signed import SignedUsers
from asgi_llmgate.middleware.auth import AuthMiddleware
from asgi_llmgate.middleware.cache import CacheMiddleware
from asgi_llmgate.middleware.fallback import FallbackMiddleware
from asgi_llmgate.middleware.hygiene import HygieneMiddleware
from asgi_llmgate.middleware.idempotency import IdempotencyMiddleware
from asgi_llmgate.middleware.limits import LimitsMiddleware
from asgi_llmgate.middleware.logging import LoggingMiddleware
from asgi_llmgate.middleware.policy import PolicyMiddleware
from asgi_llmgate.middleware.semantic import SemanticTier
from asgi_llmgate.middleware.tagging import TaggingMiddleware
from asgi_llmgate.path_key import masked, with_path_key
from asgi_llmgate.pricing import Prices
from asgi_llmgate.process import calm_collector
from asgi_llmgate.protocols import Authenticate, CacheStore, LimitStore, LogSink, Price, Upstream
from asgi_llmgate.resilience import health_of, moves_of, pools_of, retry_of
from asgi_llmgate.semantic_cache import semantic_tier_of
from asgi_llmgate.settings import Settings, load_settings
from asgi_llmgate.types import Principal, PrincipalKind
from asgi_llmgate.upstream.demo import DemoUpstream
from asgi_llmgate.upstream.make import make_upstream

__all__ = ["LLMGate", "standalone"]

logger = logging.getLogger("asgi_llmgate")

# Who makes the gateway's own calls: embeddings and verdicts of the semantic cache.
ITSELF = Principal("llmgate", PrincipalKind.HOST, "semantic-cache")
OWN_HEADERS = {"LLMGate-Cache-Enabled": "false", "LLMGate-Property-Purpose": "semantic-cache"}

NO_WEBSOCKET = "llmgate relays HTTP only; the realtime API is not available through it"


class LLMGate:
    """An LLM gateway as an ASGI application.

        app.mount("/llm", LLMGate(authenticate=who_is_logged_in))

    Args:
        settings: Defaults to `LLMGATE_*` and `llmgate.toml`.
        authenticate: The host application's own login, or several; the first answer wins.
        log: Where records go; defaults to the journal in the data folder. Yours to close.
        upstream: How providers are called; defaults to the client of the settings. Yours to
            close.
        price: Turns usage into nano-dollars; defaults to the price list of genai-prices.
        policies: What routes do with the headers of their callers, beside those of the settings.
            Paths are those below the mount point.
        cache_store: Where answers are kept; defaults to Redis if the settings name one, else to
            the data folder. Yours to close.
        limit_store: Where limits are counted; likewise.
        semantic: Finds questions that mean the same; defaults to what the settings say. Yours to
            close, with what it was made of.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        authenticate: Authenticate | Sequence[Authenticate] | None = None,
        log: LogSink | None = None,
        upstream: Upstream | None = None,
        price: Price | None = None,
        policies: Sequence[RoutePolicy] = (),
        cache_store: CacheStore | None = None,
        limit_store: LimitStore | None = None,
        semantic: SemanticTier | None = None,
    ) -> None:
        self.settings = settings if settings is not None else load_settings()
        self.draining = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_warm = False
        self._owns_process = False
        self._warmer: threading.Thread | None = None
        self._authenticate = authenticate
        self._given_log = log
        self._given_upstream = upstream
        self._given_price = price
        self._given_cache_store = cache_store
        self._given_limit_store = limit_store
        self._given_semantic = semantic
        self._own_client: Any = None
        self.cache = Cache(
            lambda: self._cache_store,
            lambda: cache_secret_of(self.settings),
            lambda: None if self._semantic is None else self._semantic.index,
        )
        self._policies = (*policies, *(each.policy() for each in self.settings.policies))
        hide_keys_in_access_log()

    @cached_property
    def log(self) -> LogSink:
        if self._given_log is not None:
            return self._given_log
        journal = journal_of(self.settings)
        atexit.register(journal.close)
        return journal

    @cached_property
    def metrics(self) -> Metrics:
        """Counters of this process, shown with those of the whole machine at `/metrics`."""
        return Metrics(self.settings.data_dir)

    @cached_property
    def price(self) -> Price:
        return self._given_price or prices_of(self.settings)

    @cached_property
    def upstream(self) -> Upstream:
        made = self._given_upstream or make_upstream(self.settings.upstream.client)
        if self.settings.demo:
            return DemoUpstream(made)
        return made

    @cached_property
    def health(self) -> Health:
        """What is known about upstreams: who fails, whose key is refused, who is slow."""
        health = health_of(self.settings, is_shared=True, count=self.metrics.count)
        self._shared_health = SharedHealth(health, self._board)
        health.on_use = self._shared_health.wake
        self.metrics.watch_gauge("llmgate_breakers_open", health.number_open)
        return health

    @cached_property
    def _board(self) -> Board:
        return board_of(self.settings)

    @cached_property
    def _cache_store(self) -> CacheStore:
        return self._given_cache_store or cache_store_of(self.settings)

    @cached_property
    def _semantic(self) -> SemanticTier | None:
        if self._given_semantic is not None:
            return self._given_semantic
        return semantic_tier_of(self.settings, post=self._post, count=self.metrics.count)

    @cached_property
    def learned(self) -> Learned | None:
        """What the semantic cache has learned; None where there is none."""
        tier = self._semantic
        if tier is None:
            return None
        return Learned(
            lambda: self._cache_store,
            lambda: tier.index,
            lambda: tier.labels,
            lambda: cache_secret_of(self.settings),
            policy=tier.policy,
            count=self.metrics.count,
        )

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make a call of the gateway's own: it is policed, priced and logged like any other.

        Raises:
            BackendError: it got no answer.
        """
        library = http_library()
        if self._own_client is None:
            self._own_client = self.http_client(library=library, principal=ITSELF)
        try:
            with acting_as(ITSELF):
                answer = await self._own_client.post(path, json=body, headers=OWN_HEADERS)
            if answer.status_code != 200:
                raise BackendError(f"{path} answered {answer.status_code}")
            told = answer.json()
        except (library.HTTPError, ValueError) as error:
            raise BackendError(f"{path}: {type(error).__name__}") from error
        if not isinstance(told, dict):
            raise BackendError(f"{path} answered with no object")
        return told

    @cached_property
    def _limit_store(self) -> LimitStore:
        return self._given_limit_store or limit_store_of(self.settings, self.metrics.count)

    @cached_property
    def _stack(self) -> HygieneMiddleware:
        settings = self.settings
        secret, *previous_secrets = secrets_of(settings)
        dispatch = Dispatch(
            upstream=self.upstream,
            registry=self._registry,
            timeouts=timeouts_of(settings, stream=False),
            stream_timeouts=timeouts_of(settings, stream=True),
            max_upload_bytes=settings.limits.max_upload_bytes,
            shared_state=self._is_one_tenant,
            stored_keys=self.control.provider_keys.pooled,
            signers=signers_of(settings, os.environ),
            is_strict=settings.translation == "strict",
        )
        targets = targets_of(self._registry)
        key = settings.auth.signing_key
        signed = SignedUsers(key.get_secret_value() if key is not None else None)
        count = self.metrics.count
        fallback = FallbackMiddleware(
            dispatch,
            registry=self._registry,
            pools=pools_of(settings),
            moves=moves_of(settings.fallback.on, "fallback.on"),
            retry=retry_of(settings.fallback.retry),
            health=self.health,
            stored_keys=self.control.provider_keys.pooled,
            price=self.price,
            window=self.price.context_window if isinstance(self.price, Prices) else None,
            stall_s=settings.fallback.first_content,
            count=count,
        )
        cache = CacheMiddleware(
            fallback,
            store=self._cache_store,
            secret=cache_secret_of(settings),
            policy=cache_policy_of(settings),
            semantic=self._semantic,
            price=self.price,
            left_out=NOT_IN_KEY | ATTRIBUTION,
            data_versions=[settings.cache.data_version] if settings.cache.data_version else [],
            max_bytes=settings.cache.max_answer_bytes,
        )
        rates, budgets, zone = limits_of(settings)
        self._alerts = BudgetAlerts(
            self._limit_store,
            lambda: (*budgets, *(self._limit_store.budgets() or ())),
            webhooks_of(settings).post,
            url=settings.limits.webhook,
        )
        self._limit_store.on_spent = self._alerts.on_spent
        limiting = LimitsMiddleware(
            IdempotencyMiddleware(cache, store=self._cache_store, secret=cache_secret_of(settings)),
            store=self._limit_store,
            policies=rates,
            budgets=budgets,
            price=self.price,
            targets=targets,
            zone=zone,
            ietf_headers=settings.limits.ietf_headers,
            count=count,
        )
        ids = self._request_ids = request_ids_of(settings)
        tagging = TaggingMiddleware(
            limiting,
            claim=ids.claim if ids is not None else None,
            signing_key=signed,
            baggage=settings.tags.baggage,
            max_property_names=settings.tags.max_property_names,
            count=count,
        )
        policy = PolicyMiddleware(
            tagging, policies=self._policies, targets=targets, signing_key=signed, count=count
        )
        auth = self._auth = AuthMiddleware(
            policy if policy.table else tagging,
            keys={name: key.get_secret_value() for name, key in settings.keys.items()},
            authenticate=self._authenticate,
            mode=settings.auth.mode,
            secret=secret,
            previous_secrets=previous_secrets,
            store=self.control,
            targets=targets,
            allowed_origins=settings.auth.allowed_origins,
        )
        self._calls = LoggingMiddleware(
            auth, sink=self.log, price=self.price, max_body_bytes=settings.log.body_cap
        )
        limits = settings.limits
        route: ASGIApp = self._route
        if settings.cors_origins:
            route = CORSMiddleware(
                route,
                allow_origins=settings.cors_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["*"],
            )
        return HygieneMiddleware(
            route,
            max_headers=limits.max_headers,
            max_header_bytes=limits.max_header_bytes,
            max_body_bytes=limits.max_body_bytes,
            max_upload_bytes=limits.max_upload_bytes,
            count=count,
        )

    @cached_property
    def _operations(self) -> Operations:
        settings = self.settings
        given = settings.admin_token.get_secret_value() if settings.admin_token else None
        return Operations(
            token=admin_token(given, settings.data_dir),
            data_dir=settings.data_dir,
            is_ready=lambda: not self.draining,
            more=lambda: upstream_families(self._board),
        )

    @cached_property
    def control(self) -> Control:
        """Virtual keys and stored provider keys."""
        return control_of(self.settings, lambda: self._registry)

    @cached_property
    def _registry(self) -> Registry:
        return registry_of(self.settings)

    def _is_one_tenant(self) -> bool:
        """Tell whether all who use a pooled key may see what was made with it."""
        settings, keyring = self.settings, self._auth.keyring
        if settings.auth.shared_files:
            return True
        has_others = self._authenticate is not None or (keyring is not None and keyring.has_keys)
        return len(settings.keys) <= 1 and not has_others

    @cached_property
    def _api(self) -> AdminApi:
        _ = self._stack  # knows the virtual keys
        settings = self.settings
        given = settings.admin_token.get_secret_value() if settings.admin_token else None
        routes: list[AdminRoute] = []
        routes += key_routes(self.control, lambda: routes)
        routes += cache_routes(lambda: self.cache, lambda: self.learned, settings.data_dir)
        routes += learned_routes(lambda: self.learned)
        routes += upstream_routes(lambda: self._registry, lambda: self._board)
        _, own, zone = limits_of(settings)
        routes += budget_routes(
            lambda: Budgets(self._limit_store, own, zone),
            frozenset(settings.limits.webhook_hosts),
        )
        token = admin_token(given, settings.data_dir)
        routes += ingest_routes(lambda: self.log, lambda: self.price, settings.data_dir)
        own_keys = {name: key.get_secret_value() for name, key in settings.keys.items()}
        return AdminApi(
            routes,
            token=token,
            keyring=self._auth.keyring,
            static_keys=StaticKeys(own_keys, secrets_of(settings)[0]),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not self._is_warm:
                await self._warm_up()
            if self.settings.auth.key_in_path:
                scope = with_path_key(scope)
            await self._stack(scope, receive, send)
        elif scope["type"] == "lifespan":
            await serve_lifespan(scope, receive, send, startup=self.startup, shutdown=self.aclose)
        elif scope["type"] == "websocket":
            # Accepted first: a refused handshake cannot carry the reason.
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 1008, "reason": NO_WEBSOCKET})

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = relative_path(scope)
        method: str = scope["method"]
        if self._operations.serves(path):
            await self._operations(scope, receive, send, path)
            return
        if path.startswith(API_PREFIX):
            await self._api(scope, receive, send, path)
            return
        headers = first_headers(scope)
        route = match_route(method, path, scope.get("raw_path"), headers)
        if route is None:
            await send_plain_error(self._unknown(method, path, headers), path, headers, send)
            return
        scope[SCOPE_KEY] = GatewayContext(scope, receive, route, headers)
        await self._calls(scope, receive, send)

    def _unknown(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> UnknownRouteError:
        """Return what to tell a caller whose path leads nowhere, with the remedy if one is seen."""
        shown = masked(path)
        message = f"There is no {method} {shown} here."
        others = [
            other
            for other in ("POST", "GET", "DELETE")
            if other != method and match_route(other, path, None, headers) is not None
        ]
        if others:
            message += f" Use {' or '.join(others)}."
        elif match_route(method, path.rstrip("/"), None, headers) is not None:
            message += " Leave out the slash at its end."
        elif shown != path:
            message += " Send the key in LLMGate-Auth; keys in paths are off."
        elif path.startswith("/v1/v1/"):
            message += " The SDK adds /v1 by itself: leave it out of the base URL."
        return UnknownRouteError(message)

    def http_client(self, *, library: Any = None, principal: Principal | None = None) -> Any:
        """Return an HTTP client whose calls go through this gateway, without a socket.

            AsyncOpenAI(api_key="-", http_client=gate.http_client())

        A call is that of whoever made the host's request that is being answered, as
        `authenticate=` knows him (`HostRequestMiddleware` or Django's `mount` must be there), or
        of whom `acting_as` says. Yours to close.

        Args:
            library: httpx or httpx2, whichever the SDK is built on; defaults to httpx2 where it
                is installed.
            principal: Whose call it is where nobody is logged in; defaults to the application
                itself, `app` of the tenant `app`.
        """
        nobody = principal or Principal("app", PrincipalKind.HOST, "app")
        given = self._authenticate
        logins = given if isinstance(given, Sequence) else [] if given is None else [given]
        login = HostLogin(logins, ())

        async def who() -> Principal:
            return await acting_principal(login.ask) or nobody

        return in_process_client(library or http_library(), self, who)

    async def startup(self) -> None:
        """Build the stack now, so that mistakes in the settings stop the start."""
        self.draining = False
        _ = self._stack, self._operations, self._api
        try:
            await self.control.start()
        except BackendError as error:
            # Keys seen before work without it, and it may come back: no reason not to start.
            logger.error("%s; virtual keys are refused until it answers", error)
        self._start_warming()
        self._watch_sigterm()

    def _start_warming(self) -> threading.Thread:
        if self._warmer is None:
            self._warmer = threading.Thread(target=self._warm, name="llmgate-warm", daemon=True)
            self._warmer.start()
        return self._warmer

    def _warm(self) -> None:
        """Load the price list: half a second that no call shall spend on the event loop."""
        if isinstance(self.price, Prices):
            self.price.load()

    async def _warm_up(self) -> None:
        if self._loop is None:
            self._watch_sigterm()
        await asyncio.to_thread(self._start_warming().join)
        if self._owns_process and not self._is_warm:
            calm_collector()
        self._is_warm = True

    def _watch_sigterm(self) -> None:
        """Notice that the server is stopped; a mounted gateway learns of it in no other way."""
        self._loop = asyncio.get_running_loop()
        on_sigterm(self._drain)

    def _drain(self) -> None:
        """Called in the middle of anything, so that only the loop may do more than note it."""
        self.draining = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hasten)

    def _hasten(self) -> None:
        if isinstance(log := self.__dict__.get("log"), BatchingSink):
            log.hasten()

    async def aclose(self) -> None:
        """Write out what is queued and close what this gateway opened itself. Safe twice."""
        made = self.__dict__
        if "upstream" in made and self._given_upstream is None:
            await self.upstream.aclose()
            del made["upstream"]
        if "log" in made:
            if self._given_log is None:
                await self.log.aclose()
                del made["log"]
            else:
                await self.log.flush()
        if "_stack" in made and self._auth.keyring is not None:
            await self._auth.keyring.aclose()
        if "_stack" in made and self._request_ids is not None:
            await self._request_ids.aclose()
        if "control" in made:
            await self.control.aclose()
        if "_semantic" in made and self._semantic is not None:
            await self._semantic.aclose()
            if self._given_semantic is None:
                await self._semantic.index.aclose()
                await self._semantic.labels.aclose()
                await self._semantic.embedder.aclose()
                del made["_semantic"]
                made.pop("learned", None)
        if self._own_client is not None:
            await self._own_client.aclose()
            self._own_client = None
        if "_cache_store" in made and self._given_cache_store is None:
            await self._cache_store.aclose()
            del made["_cache_store"]
        if "_alerts" in made:
            await self._alerts.aclose()
        if "_limit_store" in made and self._given_limit_store is None:
            await self._limit_store.aclose()
            del made["_limit_store"]
        if "health" in made:
            await asyncio.to_thread(self._shared_health.close)
            del made["health"]
        if "_board" in made:
            await asyncio.to_thread(self._board.close)
            del made["_board"]
        if "metrics" in made:
            await asyncio.to_thread(self.metrics.close)
            del made["metrics"]
        made.pop("_stack", None)
        made.pop("_api", None)

    @asynccontextmanager
    async def lifespan(self, _app: Any = None) -> AsyncIterator[None]:
        """A lifespan for the host: `FastAPI(lifespan=gate.lifespan)`. Optional."""
        await self.startup()
        try:
            yield
        finally:
            await self.aclose()


def http_library() -> Any:
    """Return httpx2, on which the SDKs are built, else httpx."""
    try:
        return import_module("httpx2")
    except ModuleNotFoundError:
        return import_module("httpx")


def standalone() -> LLMGate:
    """Build the application behind `uvicorn asgi_llmgate:app`."""
    try:
        settings = load_settings()
        check_settings(settings)
        configure_logging(settings.log.format, settings.log.level)
        gate = LLMGate(settings)
        gate._owns_process = True
        return gate
    except ConfigurationError as error:
        # uvicorn would print a traceback through its own code above the one line that helps.
        sys.exit(f"asgi_llmgate cannot start.\n{error}")
