"""Settings: `LLMGATE_*` variables and `llmgate.toml`, read once, at start.

The environment wins over the file. Nested names are joined by two underscores:
`LLMGATE_PROVIDERS__OPENAI__API_KEY`. All mistakes are reported at once, and none of them
shows a value, for a value may be a secret.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from asgi_llmgate.core.budgets import Budget, budget_from
from asgi_llmgate.core.limits import BadPolicyError, Policy, parse_policies
from asgi_llmgate.core.policy import RoutePolicy
from asgi_llmgate.core.policy_table import PolicyTable
from asgi_llmgate.core.trace import DEFAULT_BAGGAGE
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.settings_cache import CacheSettings, SemanticSettings
from asgi_llmgate.settings_parts import GIB, MIB, CommaList, Section, split_commas

__all__ = [
    "AuthSettings",
    "AwsSettings",
    "BreakerSettings",
    "BudgetSettings",
    "CacheSettings",
    "FallbackSettings",
    "GoogleSettings",
    "LimitSettings",
    "LogSettings",
    "ModelPrice",
    "ModelSettings",
    "PolicySettings",
    "ProviderKey",
    "ProviderSettings",
    "RateSettings",
    "RetrySettings",
    "SemanticSettings",
    "Settings",
    "TagSettings",
    "TimeoutSettings",
    "UpstreamSettings",
    "config_path",
    "load_settings",
]


def _named_keys(value: object) -> object:
    """Read `name:key,name:key`; the tenant is the name."""
    if not isinstance(value, str):
        return value
    keys: dict[str, str] = {}
    for part in value.split(","):
        name, colon, key = part.strip().partition(":")
        if not part.strip():
            continue
        if not (name and colon and key):
            raise ValueError("write it as name:key,name:key")
        if name in keys:
            raise ValueError(f"the name {name!r} is used twice")
        keys[name] = key
    return keys


SecretList = Annotated[list[SecretStr], NoDecode, BeforeValidator(split_commas)]
NamedKeys = Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(_named_keys)]


class ProviderKey(Section):
    """One of several keys of a provider, chosen by weight."""

    id: str
    key: SecretStr
    weight: float = Field(1.0, gt=0)


class ProviderSettings(Section):
    """Overrides or completes a row of the registry, or adds one.

    A new provider needs `base_url`; `formats` names the wire formats it speaks at other bases.
    """

    base_url: str | None = None
    formats: dict[str, str] = {}
    name: str | None = None
    auth: str | None = None
    stream_usage: bool | None = None
    api_key: SecretStr | None = None
    api_keys: SecretList = []
    keys: list[ProviderKey] = []

    def all_keys(self) -> list[ProviderKey]:
        """Every key there is, in the order written; plain ones are named by their place."""
        plain = [key for key in (self.api_key, *self.api_keys) if key is not None]
        numbered = [
            ProviderKey(id=f"key-{number}" if len(plain) > 1 else "default", key=key)
            for number, key in enumerate(plain, 1)
        ]
        return [*self.keys, *numbered]


class AuthSettings(Section):
    mode: Literal["auto", "required", "passthrough"] = "auto"
    allowed_origins: CommaList = []
    key_in_path: bool = False
    """Whether a gateway key may be the first segment of the path: `/lg_…/v1/chat/completions`."""
    shared_files: bool = False
    """Whether several tenants may use files, batches and stored responses of one pooled key."""
    signing_key: SecretStr | None = None
    """With which servers of one's own sign `LLMGate-User`."""


class LogSettings(Section):
    bodies: Literal["capped", "full", "none"] = "capped"
    max_body_bytes: int = Field(256 * 1024, ge=0)
    max_age_days: float = Field(30, gt=0)
    max_bytes: int = Field(10 * GIB, gt=0)
    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def body_cap(self) -> int | None:
        """Bytes of a body that a record keeps; None keeps all."""
        return {"capped": self.max_body_bytes, "full": None, "none": 0}[self.bodies]


class TimeoutSettings(Section):
    """Seconds."""

    connect: float = Field(5, gt=0)
    pool: float = Field(5, gt=0)
    write: float = Field(30, gt=0)
    first_byte: float = Field(600, gt=0)
    first_byte_stream: float = Field(300, gt=0)
    idle: float = Field(120, gt=0)
    total: float = Field(900, gt=0)


class UpstreamSettings(Section):
    client: Literal["h1", "pyreqwest", "httpx"] = "h1"
    timeouts: TimeoutSettings = TimeoutSettings()
    target_hosts: CommaList = []
    """Hosts that `LLMGate-Target-URL` may name beside those of the registry."""


class AwsSettings(Section):
    """With which calls to Bedrock are signed, where there is no bearer key for it."""

    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    profile: str | None = None
    default_chain: bool = False
    """Look where AWS's own tools do: files, containers, the machine's role."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        return self


class GoogleSettings(Section):
    """With which tokens for Vertex are got."""

    credentials_file: Path | None = None
    """The key of a service account, JSON."""
    default_credentials: bool = False
    """Look where Google's own tools do."""


class TagSettings(Section):
    baggage: CommaList = list(DEFAULT_BAGGAGE)
    """Names in W3C `baggage` that become properties."""
    max_property_names: int = Field(200, gt=0)
    """How many names of properties a tenant may have."""


class PolicySettings(Section):
    """What one route does with the headers of its callers; see docs/policies.md."""

    path: str
    methods: CommaList = []
    default: dict[str, Any] = {}
    force: dict[str, Any] = {}
    forbid: CommaList = []
    require: CommaList = []
    identity: Literal["require", "derive", "default"] = "default"
    models: CommaList | None = None
    providers: CommaList | None = None
    guarded: bool = False
    observe: bool = False

    @model_validator(mode="after")
    def _is_fit(self) -> Self:
        try:
            self.policy()
        except ConfigurationError as error:
            raise ValueError(str(error).replace("\nHINT: ", " ")) from None
        return self

    def policy(self) -> RoutePolicy:
        return RoutePolicy(**{name: getattr(self, name) for name in type(self).model_fields})


class RateSettings(Section):
    """One or several policies, and which calls they are for; empty lists are for all.

    Names may end in `*`.
    """

    policy: str
    models: list[str] = []
    routes: list[str] = []
    tenants: list[str] = []
    keys: list[str] = []

    @field_validator("policy")
    @classmethod
    def _parses(cls, policy: str) -> str:
        try:
            parse_policies(policy, source="settings")
        except BadPolicyError as error:
            raise ValueError(f"expected {error}") from None
        return policy

    def policies(self) -> list[Policy]:
        return [
            replace(
                policy,
                models=tuple(self.models),
                routes=tuple(self.routes),
                tenants=tuple(self.tenants),
                keys=tuple(self.keys),
            )
            for policy in parse_policies(self.policy, source="settings")
        ]


class BudgetSettings(Section):
    """US dollars per calendar period; `soft` is the share of the limit that is reported."""

    name: str
    per: str = "all"
    limit_usd: Decimal = Field(gt=0, le=10**9)
    period: Literal["hour", "day", "month"] = "month"
    subject: str | None = None
    tenant: str | None = None
    soft: float | None = Field(None, gt=0, le=1)
    hard: bool = True
    webhook: str | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        try:
            self.budget()
        except BadPolicyError as error:
            raise ValueError(f"expected {error}") from None
        return self

    def budget(self) -> Budget:
        limit = int(self.limit_usd * 10**9)
        given = self.model_dump(exclude={"limit_usd", "soft"})
        soft = None if self.soft is None else max(1, int(limit * self.soft))
        return budget_from(given | {"limit_nanousd": limit, "soft_nanousd": soft})


def _rates(value: object) -> object:
    """Read policies in one line, as an environment variable has them, or a JSON list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [{"policy": value}] if value.strip() else []


RateList = Annotated[list[RateSettings], NoDecode, BeforeValidator(_rates)]


class LimitSettings(Section):
    rates: RateList = []
    budgets: list[BudgetSettings] = []
    time_zone: str = "UTC"
    """In which the hours, days and months of budgets begin: `Europe/Berlin`."""
    workers: int | None = Field(None, ge=1)
    """How many share the limits while their store is away; defaults to what the store has seen."""
    ietf_headers: bool = False
    webhook: str | None = None
    """Where to post that a budget reached its soft threshold."""
    webhook_secret: SecretStr | None = None
    """Signs them, `whsec_` and base64; defaults to one derived from the secret key."""
    webhook_hosts: CommaList = []
    """Hosts of one's own that webhooks may go to though they are private or without TLS."""
    max_body_bytes: int = Field(32 * MIB, gt=0)
    max_upload_bytes: int = Field(512 * MIB, gt=0)
    max_header_bytes: int = Field(32 * 1024, gt=0)
    max_headers: int = Field(100, gt=0)


class RetrySettings(Section):
    """How often the same target is asked again, with pauses in seconds. 1 attempt is no retry."""

    attempts: int = Field(1, ge=1, le=10)
    factor: float = Field(2, ge=1, le=10)
    min: float = Field(1, ge=0)
    max: float = Field(10, ge=0)


class FallbackSettings(Section):
    """What is reason enough to ask another target.

    `on` lists `connect`, `timeout`, `context_window`, `content_filter`, `stream`, statuses and
    ranges of them (`500-599`).
    """

    on: CommaList | None = None
    retry: RetrySettings = RetrySettings()
    first_content: float = Field(60, gt=0)
    """Seconds that a stream may take from its head to its first content."""


class BreakerSettings(Section):
    """When calls to (provider, key, model) are stopped. Times are seconds."""

    failures: int = Field(5, ge=1)
    share: float = Field(0.5, gt=0, le=1)
    least_calls: int = Field(20, ge=1)
    window: float = Field(10, gt=0)
    slow: float = Field(300, gt=0)
    open: float = Field(5, gt=0)
    max_open: float = Field(60, gt=0)


class TargetSettings(Section):
    """One target of an alias."""

    target: str
    weight: float = Field(1, gt=0)
    context: int | None = Field(None, gt=0)
    """Tokens that the model takes, where the price list does not say."""
    tools: bool = True
    images: bool = True


def _named_target(value: object) -> object:
    return {"target": value} if isinstance(value, str) else value


AliasTarget = Annotated[TargetSettings, BeforeValidator(_named_target)]


class ModelSettings(Section):
    """A model name of the operator's own: where its calls go, and in which order."""

    targets: list[AliasTarget] = Field(min_length=1, max_length=9)
    strategy: Literal["priority", "weighted", "latency", "cost"] = "priority"
    on: CommaList | None = None
    retry: RetrySettings | None = None


class ModelPrice(Section):
    """US dollars per million tokens."""

    input: str
    output: str
    cache_read: str | None = None
    cache_write: str | None = None


class Settings(BaseSettings):
    """Everything that can be set. Unknown names in the file are refused."""

    model_config = SettingsConfigDict(
        env_prefix="LLMGATE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Path(".llmgate")
    config: Path | None = None
    keys: NamedKeys = {}
    admin_token: SecretStr | None = None
    secret_key: SecretStr | None = None
    redis_url: SecretStr | None = None
    database_url: SecretStr | None = None
    clickhouse_url: SecretStr | None = None
    auth: AuthSettings = AuthSettings()
    log: LogSettings = LogSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    limits: LimitSettings = LimitSettings()
    cache: CacheSettings = CacheSettings()
    tags: TagSettings = TagSettings()
    policies: list[PolicySettings] = []
    cors_origins: CommaList = []
    providers: dict[str, ProviderSettings] = {}
    prices: dict[str, ModelPrice] = {}
    models: dict[str, ModelSettings] = {}
    fallback: FallbackSettings = FallbackSettings()
    breaker: BreakerSettings = BreakerSettings()
    aws: AwsSettings = AwsSettings()
    google: GoogleSettings = GoogleSettings()
    translation: Literal["strict", "lenient"] = "lenient"
    """What becomes of parameters that the provider of a call has nothing like."""
    demo: bool = False
    """Answer the provider `demo` in this process. Set by `llmgate demo`."""

    @field_validator("policies")
    @classmethod
    def _are_different(cls, policies: list[PolicySettings]) -> list[PolicySettings]:
        try:
            PolicyTable([each.policy() for each in policies])
        except ConfigurationError as error:
            raise ValueError(str(error).replace("\nHINT: ", " ")) from None
        return policies

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, toml_file=config_path()),
        )


def config_path() -> Path:
    """Where the settings file is looked for; it need not exist."""
    return Path(os.environ.get("LLMGATE_CONFIG", "llmgate.toml"))


def load_settings(**values: Any) -> Settings:
    """Read environment and file; `values` win over both.

    Raises:
        ConfigurationError: lists every mistake, with the name to mend and without its value.
    """
    path = config_path()
    if "LLMGATE_CONFIG" in os.environ and not path.is_file():
        raise ConfigurationError(
            f"LLMGATE_CONFIG names {path}, which is not a file.\n"
            "HINT: create it, or unset LLMGATE_CONFIG."
        )
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = [f"  {_name(item['loc'])}: {_what(item)}" for item in error.errors()]
        raise ConfigurationError(
            "The settings have mistakes:\n"
            + "\n".join(lines)
            + f"\nHINT: mend them in the environment or in {path}."
        ) from None
    except ValueError as error:  # TOML that does not parse
        raise ConfigurationError(
            f"{path} cannot be read: {error}\nHINT: it must be valid TOML."
        ) from None


def _what(mistake: ErrorDetails) -> str:
    """Say what is wrong as a sentence of ours, not of the library's."""
    if mistake["type"] != "extra_forbidden":
        return mistake["msg"].removeprefix("Value error, ")
    *above, name = mistake["loc"]
    near = difflib.get_close_matches(str(name), _siblings(above), n=1)
    return "there is no such setting" + (f"; did you mean {near[0]}?" if near else "")


def _siblings(location: Sequence[int | str]) -> list[str]:
    """Return the settings of the section at `location`. Names of providers … are no sections."""
    section: type[BaseModel] | None = Settings
    for part in location:
        if section is not None and part in section.model_fields:
            section = _section(section.model_fields[str(part)].annotation)
    return list(section.model_fields) if section is not None else []


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section, get_args(annotation))), None)


def _name(location: tuple[int | str, ...]) -> str:
    dotted = ".".join(str(part) for part in location)
    variable = "LLMGATE_" + "__".join(str(part) for part in location).upper()
    return f"{dotted} ({variable})"
