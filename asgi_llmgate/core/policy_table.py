"""Which policy applies to a request: at most one, the most specific.

    1. a path without `*` before one with it
    2. of those with it, the longer before the shorter
    3. one that names methods before one for all of them
    4. the path as it was sent before the name of its route

So `POST /v1/chat/completions` goes before `/v1/chat/completions`, that before `/v1/*`, and `*` is
last. Policies do not add up: what the most specific does not say is not said.

A guard must match more than the app behind it does, not less. So paths are compared in lower case
and without doubled or trailing slashes, and also by the name of the route: a policy for
`/v1/chat/completions` holds for `/chat/completions`, which is the same route.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from asgi_llmgate.core.policy import RoutePolicy, Rule
from asgi_llmgate.errors import ConfigurationError

__all__ = ["Match", "PolicyTable", "loosened"]

# Paths hold ids that callers choose; what is found for one is remembered for that many.
MAX_REMEMBERED = 1024


class Match(NamedTuple):
    """A policy that matches, and what by. `rank` compares: the greatest applies."""

    rule: Rule
    rank: tuple[bool, int, bool, bool]

    @property
    def why(self) -> str:
        is_exact, length, has_methods, by_path = self.rank
        what = "path" if by_path else "name of the route"
        if is_exact:
            by = f"the whole {what}"
        else:
            by = f"the beginning of the {what}" if length else "everything"
        return by + (" and the method" if has_methods else "")


class PolicyTable:
    """All policies of a gateway or middleware.

    Raises:
        ConfigurationError: two are for the same path and method, and neither would be first.
    """

    def __init__(self, policies: Iterable[RoutePolicy]) -> None:
        self.rules = tuple(Rule(policy) for policy in policies)
        self._remembered: dict[tuple[str, str, str], Rule | None] = {}
        for place, rule in enumerate(self.rules):
            for other in self.rules[:place]:
                if _are_equal(rule, other):
                    raise ConfigurationError(
                        f"The policies {other.name!r} and {rule.name!r} are for the same calls.\n"
                        "HINT: a call has one policy: join them, or give them different methods."
                    )

    def __bool__(self) -> bool:
        return bool(self.rules)

    def find(self, method: str, path: str, route: str) -> Rule | None:
        """Return the policy for a call; None if there is none.

        Args:
            path: Below the mount point, percent-decoded.
            route: Name of the route, such as `/v1/chat/completions`; "" if it has none.
        """
        key = (method, path, route)
        try:
            return self._remembered[key]
        except KeyError:
            pass
        found = self.matches(method, path, route)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        rule = self._remembered[key] = found[0].rule if found else None
        return rule

    def matches(self, method: str, path: str, route: str) -> Sequence[Match]:
        """Return every policy that matches, the one that applies first."""
        method, path, route = method.upper(), loosened(path), loosened(route)
        found = []
        for rule in self.rules:
            if rule.methods and method not in rule.methods:
                continue
            by_path = _is_within(path, rule)
            if by_path or (route and _is_within(route, rule)):
                rank = (rule.is_exact, len(rule.prefix), bool(rule.methods), by_path)
                found.append(Match(rule, rank))
        return sorted(found, key=lambda match: match.rank, reverse=True)

    def names_path(self, method: str, path: str) -> Rule | None:
        """Return the policy that names `path` or some of its beginning; `*` names none."""
        found = self.matches(method, path, "")
        return found[0].rule if found and found[0].rule.prefix else None


def loosened(path: str) -> str:
    """Return `path` as the most lenient server would read it."""
    return "/".join(["", *(segment for segment in path.lower().split("/") if segment)])


def _is_within(path: str, rule: Rule) -> bool:
    prefix = rule.prefix
    if rule.is_exact or not path.startswith(prefix):
        return path == prefix
    return len(path) == len(prefix) or path[len(prefix)] == "/"


def _are_equal(one: Rule, other: Rule) -> bool:
    if (one.prefix, one.is_exact) != (other.prefix, other.is_exact):
        return False
    if bool(one.methods) != bool(other.methods):
        return False
    return not one.methods or bool(one.methods & other.methods)
