"""What one route does with the headers of its callers, and whom it refuses.

A policy speaks about headers by their short names: `User-Id` is `LLMGate-User-Id` and
`Helicone-User-Id` alike. It looks at what was understood, not at what was written: a header that
is empty, or of Helicone's and malformed, was not sent.

In this order: what is forbidden is refused, defaults fill in what the caller left out, forced
values replace what he sent, what is required must be there by now, then the identity, then the
models and providers. Nothing here does I/O; `middleware/policy.py` asks and acts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal, NamedTuple, get_args

from asgi_llmgate.core.directives import DEFAULT, Directives
from asgi_llmgate.core.grants import matches, matches_model
from asgi_llmgate.core.policy_headers import (
    Header,
    HeaderValue,
    assignment,
    header_named,
    mistake,
)
from asgi_llmgate.errors import (
    ConfigurationError,
    ForbiddenError,
    GatewayError,
    InvalidRequestError,
)

__all__ = ["Identity", "Refusal", "RoutePolicy", "Rule"]

Identity = Literal["require", "derive", "default"]
METHODS = frozenset({"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"})
# Lists of models name none, and cost nothing.
_WITHOUT_MODEL = frozenset({"openai-models", "anthropic-models", "gemini-models"})

_SETTERS = {each.name: getattr(Directives, each.name).__set__ for each in fields(Directives)}
_VALUES = attrgetter(*_SETTERS)

# Values that add up. What an answer depends on is true whoever said it; dropped, it grows stale.
# And limits are only ever added, by a route as by a caller.
_ADDED = frozenset({"cache_tags", "rate_limit_policy"})


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """A policy for the calls to one path, or to all below one.

    Args:
        path: `/v1/chat/completions`, `/support/*` (it and all below it), or `*`. Below the mount
            point. Compared without regard to case and doubled or trailing slashes.
        methods: Empty for all.
        default: Headers that the caller gets if he sent none, by short name. `Cache-Tags` and
            `RateLimit-Policy`, here and in `force`, are added to what he sent.
        force: Headers that replace what he sent.
        forbid: Headers that are refused; `Property-*` stands for all properties.
        require: Headers without which a call is refused. A login or a key bound to a user
            counts as `User-Id`, and so does a user that the body names.
        identity: `require` refuses who is not proven by login, key or signature; `derive` takes
            nobody's word for who he is: proven, else `svc:<key>`; `default` also takes the word.
        models: What may be called: names as the provider knows them, or `provider/name`; a `*` at
            the end matches any rest. None allows all, an empty list nothing.
        providers: Ids, likewise.
        guarded: Clients that can go to a provider directly when the gateway is down must not do
            so for this route. Told in `LLMGate-Guarded`.
        observe: Count what would be refused, and let it pass.

    Raises:
        ConfigurationError: something in it is misspelled or has no effect.
    """

    path: str
    methods: Sequence[str] = ()
    default: Mapping[str, HeaderValue] = field(default_factory=dict)
    force: Mapping[str, HeaderValue] = field(default_factory=dict)
    forbid: Sequence[str] = ()
    require: Sequence[str] = ()
    identity: Identity = "default"
    models: Sequence[str] | None = None
    providers: Sequence[str] | None = None
    guarded: bool = False
    observe: bool = False

    def __post_init__(self) -> None:
        Rule(self)


class Refusal(NamedTuple):
    """Why a call is not let through. `reason` is a word for metrics."""

    reason: str
    error: GatewayError


class Rule:
    """A `RoutePolicy`, read once and ready to be applied.

    Args:
        prefix: The path without its `*`, in lower case, without a slash at the end.
        is_exact: It has no `*`.
        takes_word: Whether a user may be named by whoever calls.
        needs_proof: Whether a call needs a user who is proven.
        restricts_targets: Whether some models or providers are refused.
    """

    def __init__(self, policy: RoutePolicy) -> None:
        self.policy = policy
        self.takes_word = policy.identity == "default"
        self.needs_proof = policy.identity == "require"
        self.restricts_targets = policy.models is not None or policy.providers is not None
        self.prefix, self.is_exact = _pattern(policy.path)
        self.methods = frozenset(method.upper() for method in policy.methods)
        if unknown := self.methods - METHODS:
            raise mistake(policy.path, f"{min(unknown)!r} is not a method", "POST, GET …")
        if policy.identity not in get_args(Identity):
            wanted = "require, derive or default"
            raise mistake(policy.path, f"identity={policy.identity!r} is none", wanted)
        self._default = [assignment(policy.path, *item) for item in policy.default.items()]
        self._force = [assignment(policy.path, *item) for item in policy.force.items()]
        self._forbid = [
            header_named(policy.path, name, any_property=True) for name in policy.forbid
        ]
        self._require = [header_named(policy.path, name) for name in policy.require]
        if self.needs_proof:
            # Who is proven has no need of the header, and whom only the header names is refused.
            self._require = [header for header in self._require if header.field != "user_id"]
        self.requires_user = any(header.field == "user_id" for header in self._require)
        if self.requires_user and not self.takes_word:
            wanted = "identity='require' alone demands a user who is proven"
            raise mistake(policy.path, "LLMGate-User-Id is required, but not believed", wanted)
        both = {header.shown for header, _ in (*self._default, *self._force)}
        if clash := [header.shown for header in self._forbid if header.shown in both]:
            raise mistake(
                policy.path, f"{clash[0]} is both set and forbidden", "force alone is enough"
            )
        for what in ("models", "providers"):
            _check_names(policy, what, getattr(policy, what))
        # Nearly all callers send no header at all, and all of those get the same.
        self._bare = self._merged(DEFAULT)

    @property
    def name(self) -> str:
        """The policy as metrics and messages call it."""
        methods = ",".join(sorted(self.methods))
        return f"{methods} {self.policy.path}" if methods else self.policy.path

    def forbidden(self, directives: Directives) -> Refusal | None:
        """Refuse what the caller must not send."""
        for header in self._forbid:
            if header.value(directives) is not None:
                message = f"{header.shown} may not be sent on this route. Remove the header."
                return _refusal("forbid", ForbiddenError, message, header.shown)
        return None

    def settle(self, directives: Directives) -> Directives:
        """Return `directives` with what the policy adds and replaces."""
        return self._bare if directives is DEFAULT else self._merged(directives)

    def is_bare(self, settled: Directives) -> bool:
        """Tell whether `settled` is what everybody gets who sends no header."""
        return settled is self._bare

    def missing(self, directives: Directives, *, has_user: bool) -> Refusal | None:
        """Refuse a call that lacks a header. `has_user`: a user is known without one."""
        for header in self._require:
            if header.value(directives) is None and not (has_user and header.field == "user_id"):
                message = f"This route needs {header.shown}; send {_remedy(header)}."
                return _refusal("require", InvalidRequestError, message, header.shown)
        return None

    def unproven(self) -> Refusal:
        """Refuse a call whose user is not proven."""
        message = (
            "This route needs a user that is proven: log in to the application, use a key that is "
            "bound to a user, or have your server sign LLMGate-User. LLMGate-User-Id is not enough."
        )
        return _refusal("identity", ForbiddenError, message, None)

    def not_allowed(
        self, provider: str | None, model: str | None, wire_format: str | None
    ) -> Refusal | None:
        """Refuse a provider or model. `provider` is None if nobody knows it."""
        policy = self.policy
        providers = policy.providers
        if providers is not None and not matches(providers, ((provider or "").lower(),)):
            message = f"This route may not use {provider or 'an unknown provider'}. "
            return _refusal("providers", ForbiddenError, message + _allowed(providers), "model")
        models = policy.models
        if models is None or (wire_format in _WITHOUT_MODEL and models):
            return None
        if model is None:
            message = "This route is restricted to some models, and the request names none. "
            return _refusal("models", ForbiddenError, message + _allowed(models), "model")
        if not matches_model(models, provider, model):
            message = f"This route may not use the model {model[:100]!r}. "
            return _refusal("models", ForbiddenError, message + _allowed(models), "model")
        return None

    def sets(self, sent: Directives) -> Iterator[tuple[str, str, Any]]:
        """Yield how, which header, and the value, of all that is set for who sent `sent`."""
        forced = {header.shown for header, _ in self._force}
        for header, value in self._default:
            is_open = header.value(sent) is None and header.shown not in forced
            if is_open or header.field in _ADDED:
                yield "default", header.shown, value
        for header, value in self._force:
            yield "force", header.shown, value

    def _merged(self, directives: Directives) -> Directives:
        changes: dict[str, Any] = {}
        properties: dict[str, str] = {}
        for header, value in (*self._default, *self._force):
            if header.field in _ADDED:
                before = changes.get(header.field, getattr(directives, header.field))
                changes[header.field] = tuple(dict.fromkeys((*before, *value)))
        for header, value in self._default:
            if header.value(directives) is None and header.field not in _ADDED:
                if header.property is not None:
                    properties[header.property] = value
                else:
                    changes[header.field] = value
        for header, value in self._force:
            if header.property is not None:
                properties[header.property] = value
            elif header.field not in _ADDED:
                changes[header.field] = value
        if properties:
            changes["properties"] = {**directives.properties, **properties}
        if not changes:
            return directives
        # The constructor of a frozen class sets its forty fields one by one, by name: 6 µs.
        merged = object.__new__(Directives)
        for set_field, value in zip(_SETTERS.values(), _VALUES(directives), strict=True):
            set_field(merged, value)
        for name, value in changes.items():
            _SETTERS[name](merged, value)
        return merged


def _pattern(path: str) -> tuple[str, bool]:
    """Return a path without its star, fit to be compared, and whether it had none."""
    is_exact = not path.endswith("*")
    if not is_exact and path not in ("*", "/*") and not path.endswith("/*"):
        raise ConfigurationError(
            f"The policy for {path!r}: a `*` stands for whole segments at the end.\n"
            f"HINT: write {path[:-1].rstrip('/')}/*, which covers that path, too."
        )
    stem = path if is_exact else path[:-1]
    if "*" in stem or "?" in stem or (path != "*" and not path.startswith("/")):
        raise ConfigurationError(
            f"The policy for {path!r}: this is not a path.\n"
            "HINT: write /v1/chat/completions, /support/* or *; without host, mount point or query."
        )
    return "/".join(["", *(segment for segment in stem.lower().split("/") if segment)]), is_exact


def _check_names(policy: RoutePolicy, what: str, names: Sequence[str] | None) -> None:
    if isinstance(names, str):
        raise mistake(policy.path, f"`{what}` is a text", f"{what} = [{names!r}]")
    for name in names or ():
        if not name or "*" in name[:-1] or not name.isprintable():
            raise mistake(
                policy.path, f"{name!r} in `{what}` is no name", "a `*` may only be at the end"
            )
        if what == "providers" and name != name.lower():
            raise mistake(
                policy.path, f"{name!r} in `providers`", f"ids are lower case: {name.lower()}"
            )


def _refusal(reason: str, kind: type[GatewayError], message: str, param: str | None) -> Refusal:
    return Refusal(reason, kind(message, code="policy_violation", param=param))


def _allowed(names: Sequence[str]) -> str:
    if not names:
        return "It is closed: nothing is allowed here."
    return f"Allowed: {', '.join(names)}."


def _remedy(header: Header) -> str:
    if header.field == "user_id":
        return 'the id of your end user in it, such as "LLMGate-User-Id: user-42", or log in'
    if header.property is not None:
        return f'what it is for, such as "{header.shown}: checkout"'
    return "it with every call"
