"""What a virtual key may do, and that a child never does more than its parent.

Everything is a list of what is allowed: a name, or a beginning followed by `*`. So whether one list
lies within another can be decided, which for patterns with a `*` anywhere it could not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from asgi_llmgate.errors import ForbiddenError
from asgi_llmgate.types import Grants, KeyScope, Route

__all__ = [
    "MAX_PATTERNS",
    "MAX_TAGS",
    "check_route",
    "check_target",
    "excess",
    "intersection",
    "matches",
    "matches_model",
    "unfit",
]

MAX_PATTERNS = 100
MAX_PATTERN_LENGTH = 200
# As many as a request may set itself: 32 properties (`core/directives.py`), half of them here.
MAX_TAGS = 16

# Lists of models name none, and cost nothing.
_WITHOUT_MODEL = frozenset({"openai-models", "anthropic-models", "gemini-models"})


def unfit(grants: Grants) -> str | None:
    """Say what is wrong with `grants` as somebody wrote them; None if nothing is."""
    if not grants.scopes:
        return "a key needs at least one scope: call, ingest or read"
    for what in ("models", "providers", "routes"):
        patterns = getattr(grants, what)
        if patterns is None:
            continue
        if not patterns or len(patterns) > MAX_PATTERNS:
            return f"`{what}` needs 1 to {MAX_PATTERNS} names; leave it out to allow all"
        for pattern in patterns:
            if not 0 < len(pattern) <= MAX_PATTERN_LENGTH or not pattern.isprintable():
                return f"a name in `{what}` is empty, too long or not printable"
            if "*" in pattern[:-1]:
                return f"{pattern!r} in `{what}`: a `*` may only be at the end"
    if len(grants.tags) > MAX_TAGS:
        return f"a key has at most {MAX_TAGS} tags"
    for name, value in grants.tags:
        fits = 0 < len(name) <= 64 and 0 < len(value) <= 256 and (name + value).isprintable()
        if not fits or name != name.lower():
            return "tags are lower-case names of 1-64 and values of 1-256 printable characters"
    return None


def excess(child: Grants, parent: Grants) -> str | None:
    """Say what `child` would have beyond `parent`; None if nothing."""
    if beyond := child.scopes - parent.scopes:
        return f"the parent has no scope {', '.join(sorted(beyond))}"
    for what in ("models", "providers", "routes"):
        theirs, ours = getattr(parent, what), getattr(child, what)
        if theirs is None:
            continue
        if ours is None:
            return f"the parent is restricted to the {what} {', '.join(theirs)}; name some of them"
        covers = _covers_models if what == "models" else _covers
        for pattern in ours:
            if not any(covers(wider, pattern) for wider in theirs):
                return f"the parent does not allow {pattern!r} in `{what}`"
    for name, value in parent.tags:
        if dict(child.tags).get(name, value) != value:
            return f"the parent sets the tag {name!r} to another value"
    return None


def intersection(child: Grants, parent: Grants) -> Grants:
    """Return what both allow, with the tags of both; the parent's win."""
    return Grants(
        scopes=child.scopes & parent.scopes,
        models=_both(child.models, parent.models, _covers_models),
        providers=_both(child.providers, parent.providers),
        routes=_both(child.routes, parent.routes),
        tags=tuple((dict(child.tags) | dict(parent.tags)).items()),
    )


def check_route(grants: Grants, route: Route) -> None:
    """Raise unless a key with `grants` may call `route`.

    Raises:
        ForbiddenError: it may not; the message says what it lacks.
    """
    if KeyScope.CALL not in grants.scopes:
        raise ForbiddenError("This key may not call models: it has no scope `call`.")
    if grants.routes is not None and not matches(grants.routes, (route.name,)):
        raise ForbiddenError(f"This key may not use the route {route.name}.")


def check_target(
    grants: Grants, provider: str | None, model: str | None, wire_format: str | None
) -> None:
    """Raise unless a key with `grants` may have `model` of `provider`.

    Args:
        provider: None if nobody knows yet, as in an app of one's own; then it must not matter.
        model: As the provider knows it; None if the request names none.
        wire_format: Of the route.

    Raises:
        ForbiddenError: it may not; the message says what it lacks.
    """
    if grants.providers is not None and not matches(grants.providers, (provider or "",)):
        raise ForbiddenError(f"This key may not use the provider {provider!r}.")
    if grants.models is None or wire_format in _WITHOUT_MODEL:
        return
    if model is None:
        raise ForbiddenError(
            "This key is restricted to some models, and the request does not tell which it is for."
        )
    if not matches_model(grants.models, provider, model):
        raise ForbiddenError(f"This key may not use the model {model!r}.", param="model")


def matches(patterns: Iterable[str], names: tuple[str, ...]) -> bool:
    """Tell whether one of `names` matches one of `patterns`."""
    for pattern in patterns:
        if pattern in names:
            return True
        if pattern.endswith("*") and any(name.startswith(pattern[:-1]) for name in names):
            return True
    return False


def matches_model(patterns: Iterable[str], provider: str | None, model: str) -> bool:
    """Tell whether one of `patterns` matches `model`, by itself or after its provider's id.

    Only a pattern with a slash is about a provider: `o*` is o1 and o3, not all that OpenAI has.
    """
    patterns = tuple(patterns)
    if matches(patterns, (model,)):
        return True
    qualified = (pattern for pattern in patterns if "/" in pattern)
    return provider is not None and matches(qualified, (f"{provider}/{model}",))


def _covers(wider: str, narrower: str) -> bool:
    if wider.endswith("*"):
        return narrower.removesuffix("*").startswith(wider[:-1])
    return wider == narrower


def _covers_models(wider: str, narrower: str) -> bool:
    # One without a slash matches names of models only, one with it those of providers, too.
    same_sort = wider == "*" or "/" in wider or "/" not in narrower
    return same_sort and _covers(wider, narrower)


def _both(
    ours: tuple[str, ...] | None,
    theirs: tuple[str, ...] | None,
    covers: Callable[[str, str], bool] = _covers,
) -> tuple[str, ...] | None:
    if ours is None or theirs is None:
        return ours if theirs is None else theirs
    found: dict[str, None] = {}
    for one in ours:
        for other in theirs:
            if covers(other, one):
                found[one] = None
            elif covers(one, other):
                found[other] = None
    return tuple(found)
