"""`llmgate budgets`: in the store itself; running gateways see it within 2 s."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import ValidationError

from asgi_llmgate.api.budgets import NewBudget, read_budget
from asgi_llmgate.assemble import limit_store_of, limits_of
from asgi_llmgate.budgets import Budgets
from asgi_llmgate.core.record import escape_controls
from asgi_llmgate.errors import BackendError, InvalidRequestError
from asgi_llmgate.settings import load_settings

__all__ = ["app_budgets"]

T = TypeVar("T")

app_budgets = typer.Typer(help="What may be spent per hour, day or month.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The budget's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app_budgets.command("set")
def set_budget(
    name: Name,
    limit: Annotated[str, typer.Option(help="US dollars per period.")],
    per: Annotated[
        str, typer.Option(help="all, tenant, key, user, team, model … or property:NAME.")
    ] = "all",
    subject: Annotated[str | None, typer.Option(help="Only this key, user, team …")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only calls of this tenant.")] = None,
    period: Annotated[str, typer.Option(help="hour, day or month.")] = "month",
    soft: Annotated[
        float | None, typer.Option(help="Share of the limit that is reported: 0.8.")
    ] = None,
    hard: Annotated[bool, typer.Option(help="Refuse calls beyond the limit.")] = True,
    webhook: Annotated[str | None, typer.Option(help="Where to post the report.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set or replace a budget."""
    given = {
        "limit_usd": limit,
        "per": per,
        "subject": subject,
        "tenant": tenant,
        "period": period,
        "soft": soft,
        "hard": hard,
        "webhook": webhook,
    }
    try:
        hosts = frozenset(load_settings().limits.webhook_hosts)
        budget = read_budget(name, NewBudget.model_validate(given), hosts)
    except ValidationError as error:
        first = error.errors()[0]
        _fail(f"{first['loc'][0]}: {first['msg']}")
    except InvalidRequestError as error:
        _fail(str(error))
    found = _run(lambda budgets: budgets.set(budget))
    _print([found], as_json)


@app_budgets.command("list")
def list_budgets(as_json: AsJson = False) -> None:
    """Show every budget, and what was spent in the period of now."""
    _print(_run(lambda budgets: budgets.all()), as_json)


@app_budgets.command()
def reset(
    name: Name,
    subject: Annotated[str | None, typer.Option(help="As the list shows it; else all.")] = None,
) -> None:
    """Forget what was spent."""
    if not _run(lambda budgets: budgets.reset(name, subject)):
        _fail(f"There is no budget {name!r}.")
    print(f"What was spent of {name} is forgotten.")


@app_budgets.command()
def remove(name: Name) -> None:
    """Remove a budget."""
    if not _run(lambda budgets: budgets.remove(name)):
        _fail(f"There is no budget {name!r}.")
    print(f"{name} is removed.")


def _run(work: Callable[[Budgets], Awaitable[T]]) -> T:
    settings = load_settings()
    _, own, zone = limits_of(settings)

    async def run() -> T:
        store = limit_store_of(settings)
        try:
            return await work(Budgets(store, own, zone))
        finally:
            await store.aclose()

    try:
        return asyncio.run(run())
    except (BackendError, ValueError) as error:
        _fail(f"{error}.")


def _print(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for budget in found:
            print(json.dumps(budget))
        return
    for budget in found:
        whose = budget["subject"] or f"each {budget['per']}"
        if budget["per"] == "all":
            whose = "everybody together"
        if budget["tenant"]:
            whose += f" of {budget['tenant']}"
        stop = "" if budget["hard"] else ", stops nobody"
        soft = f", reported at ${budget['soft_usd']}" if budget["soft_usd"] else ""
        head = f"{budget['name']}: ${budget['limit_usd']} per {budget['period']} for {whose}"
        print(escape_controls(head + soft + stop))
        for row in budget["spent"]:
            print(escape_controls(f"  {row['subject'] or 'all':<32} ${row['spent_usd']}"))


def _fail(message: str) -> NoReturn:
    print(escape_controls(message), file=sys.stderr)
    raise typer.Exit(1)
