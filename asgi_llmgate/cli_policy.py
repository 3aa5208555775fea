"""`llmgate policy`: which policy applies to a request, and what it does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from asgi_llmgate.core.directives import Directives, parse_directives
from asgi_llmgate.core.limits import Policy
from asgi_llmgate.core.policy import Refusal, Rule
from asgi_llmgate.core.policy_table import PolicyTable
from asgi_llmgate.core.routes import match_route
from asgi_llmgate.errors import InvalidRequestError
from asgi_llmgate.settings import load_settings

__all__ = ["app_policy"]

app_policy = typer.Typer(help="Policies of routes.", no_args_is_help=True)

Header = Annotated[
    list[str] | None, typer.Option("--header", "-H", help="A header of the call: 'Name: value'.")
]


@app_policy.callback()
def group() -> None:
    """Policies of routes."""


@app_policy.command()
def explain(
    method: Annotated[str, typer.Argument(help="POST, GET …")],
    path: Annotated[str, typer.Argument(help="Below the mount point.")],
    header: Header = None,
    user: Annotated[bool, typer.Option("--user", help="As if a user had logged in.")] = False,
    model: Annotated[str | None, typer.Option(help="The model that the body names.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which policy applies to a request, why, what it changes, and what it refuses."""
    headers = _parsed(header or [])
    route = match_route(method.upper(), path, None, headers)
    table = PolicyTable([each.policy() for each in load_settings().policies])
    name = route.name if route is not None else ""
    found = table.matches(method, path, name)
    answer: dict[str, Any] = {
        "route": name or None,
        "policies": [
            {"policy": match.rule.name, "applies": place == 0, "matches_by": match.why}
            for place, match in enumerate(found)
        ],
        "sets": [],
        "refused": [],
        "observed": bool(found) and found[0].rule.policy.observe,
    }
    if found:
        rule = found[0].rule
        try:
            sent = parse_directives(headers)
        except InvalidRequestError as error:
            answer["refused"] = [_shown(Refusal("header", error))]
        else:
            answer["sets"] = list(_changes(rule, sent))
            wire_format = route.format if route is not None else None
            provider, name_there = _split(route.provider if route is not None else None, model)
            refusals = (
                rule.forbidden(sent),
                rule.missing(rule.settle(sent), has_user=user),
                rule.unproven() if rule.needs_proof and not user else None,
                None if model is None else rule.not_allowed(provider, name_there, wire_format),
            )
            answer["refused"] = [_shown(refusal) for refusal in refusals if refusal is not None]
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(_lines(answer, method.upper(), path)))


def _parsed(given: list[str]) -> dict[bytes, bytes]:
    headers = {}
    for line in given:
        name, colon, value = line.partition(":")
        if not colon:
            raise typer.BadParameter(f"{line!r} is no header; write 'Name: value'")
        headers[name.strip().lower().encode()] = value.strip().encode()
    return headers


def _split(provider: str | None, model: str | None) -> tuple[str | None, str | None]:
    """Tell provider and model apart as far as that goes without the registry."""
    if provider is None and model is not None and "/" in model:
        provider, _, model = model.partition("/")
    return provider, model


def _changes(rule: Rule, sent: Directives) -> Iterator[dict[str, str]]:
    for how, header, value in rule.sets(sent):
        yield {"header": header, "value": _written(value), "by": how}


def _written(value: Any) -> str:
    """Write a value as whoever reads policies knows it."""
    match value:
        case Policy():
            return value.describe()
        case list() | tuple():
            return ", ".join(_written(each) for each in value)
    return str(value)


def _shown(refusal: Refusal) -> dict[str, Any]:
    error = refusal.error
    return {"status": error.status, "reason": refusal.reason, "message": str(error)}


def _lines(answer: dict[str, Any], method: str, path: str) -> Iterator[str]:
    route = answer["route"]
    yield f"{method} {path}" + (f"  (route {route})" if route not in (None, path) else "")
    if route is None:
        yield "  the gateway has no such route; a middleware alone in an app may"
    if not answer["policies"]:
        yield "  no policy: headers are taken as they are sent"
        return
    for match in answer["policies"]:
        verdict = "applies" if match["applies"] else "less specific, not used"
        yield f"  policy {match['policy']}: {verdict}; matches by {match['matches_by']}"
    for change in answer["sets"]:
        yield f"  {change['by']}: {change['header']} = {change['value']}"
    for refusal in answer["refused"]:
        word = "would be refused" if answer["observed"] else "refused"
        yield f"  {word}: {refusal['status']} ({refusal['reason']}) {refusal['message']}"
    if not answer["refused"]:
        yield "  let through"
