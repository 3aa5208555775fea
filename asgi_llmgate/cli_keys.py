"""`llmgate keys` and `llmgate provider-keys`: the control store from the command line.

Works on the store itself, not through a running gateway; gateways notice within a second.
Secrets are read from a prompt or from standard input, never from arguments, which others on the
machine can see; a new key is printed once, to standard output.
"""

from __future__ import annotations

import asyncio
import getpass
import re
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, NoReturn, TypeVar

import typer
from pydantic import BaseModel, SecretStr, ValidationError

from asgi_llmgate.api import models
from asgi_llmgate.assemble import control_of, registry_of
from asgi_llmgate.cli_table import clip
from asgi_llmgate.control import Control, ControlError
from asgi_llmgate.core.record import escape_controls
from asgi_llmgate.errors import BackendError
from asgi_llmgate.settings import load_settings
from asgi_llmgate.types import KeyScope

__all__ = ["app_keys", "app_provider_keys"]

app_keys = typer.Typer(help="Virtual keys of this gateway.", no_args_is_help=True)
app_provider_keys = typer.Typer(
    help="Keys of providers, sealed in the control store.", no_args_is_help=True
)

T = TypeVar("T")

DURATION = re.compile(r"(\d{1,6})(s|m|h|d)")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
PAGE = 1000

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="What it is for.")]
Kid = Annotated[str, typer.Argument(help="The id of the key: its part after lg_.")]
Tenant = Annotated[
    str | None,
    typer.Option(help="Whose cache, limits and log it shares; its own, named like it, if not set."),
]
User = Annotated[str | None, typer.Option(help="The end user it is bound to.")]
Parent = Annotated[str | None, typer.Option(help="Id of the key that it may never exceed.")]
Scopes = Annotated[
    list[KeyScope] | None, typer.Option("--scope", help="What it is for; call if not set.")
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="Only these: gpt-4o, gpt-4o*, openai/gpt-4o.")
]
Providers = Annotated[list[str] | None, typer.Option("--provider", help="Only these.")]
Routes = Annotated[list[str] | None, typer.Option("--route", help="Only these: /v1/chat/*.")]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Set on every call.")
]
Rates = Annotated[
    list[str] | None,
    typer.Option("--rate", help="What it may use: '100;w=60', '50000;w=60;u=token'."),
]
Expires = Annotated[
    str | None, typer.Option("--expires", help="30d, 12h, 2027-01-31, 2027-01-31T12:00:00Z.")
]


@app_keys.command("create")
def create_key(
    name: Name,
    tenant: Tenant = None,
    user: User = None,
    parent: Parent = None,
    scope: Scopes = None,
    model: Models = None,
    provider: Providers = None,
    route: Routes = None,
    tag: Tags = None,
    rate: Rates = None,
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once."""

    async def create(control: Control) -> models.IssuedKey:
        wish = models.NewKey(
            name=name,
            tenant=tenant,
            user_id=user,
            parent=parent,
            scopes=scope or [KeyScope.CALL],
            models=model or None,
            providers=provider or None,
            routes=route or None,
            tags=_pairs(tag),
            rates=",".join(rate) if rate else None,
            expires_at=_moment(expires),
        )
        key, token = await control.keys.create(wish)
        return models.IssuedKey(key=models.key_view(key, time.time()), token=token)

    _show_issued(_run(create), as_json)


@app_keys.command("import")
def import_key(
    name: Name,
    tenant: Tenant = None,
    user: User = None,
    scope: Scopes = None,
    model: Models = None,
    provider: Providers = None,
    route: Routes = None,
    tag: Tags = None,
    rate: Rates = None,
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Take over a key that was made elsewhere (sk-helicone-…, sk-…), so that it goes on working.

    The key is read from a prompt or from standard input.
    """
    secret = _secret("The key to import")

    async def take(control: Control) -> models.KeyView:
        wish = models.ImportedKey(
            name=name,
            tenant=tenant,
            user_id=user,
            scopes=scope or [KeyScope.CALL],
            models=model or None,
            providers=provider or None,
            routes=route or None,
            tags=_pairs(tag),
            rates=",".join(rate) if rate else None,
            expires_at=_moment(expires),
            secret=secret,
        )
        return models.key_view(await control.keys.import_(wish), time.time())

    view = _run(take)
    _show(view, as_json, f"Imported as {view.kid}, tenant {view.tenant}.")


@app_keys.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    as_json: AsJson = False,
) -> None:
    """List keys, without their secrets."""

    async def page(control: Control) -> models.KeyList:
        keys = []
        after = ""
        while rows := await control.keys.page(tenant=tenant, after=after, limit=PAGE):
            keys += [models.key_view(row, time.time()) for row in rows]
            after = rows[-1].kid
        return models.KeyList(keys=keys, next=None)

    found = _run(page)
    if as_json:
        _print_json(found)
        return
    if not found.keys:
        print("There are no virtual keys. `llmgate keys create NAME` makes one.", file=sys.stderr)
    for key in found.keys:
        end = f"until {key.expires_at:%Y-%m-%d}" if key.expires_at else ""
        who = f"{key.tenant}/{key.user_id}" if key.user_id else key.tenant
        scopes = ",".join(key.scopes)
        line = f"{key.kid}  …{key.hint:<4}  {key.state:<7}  {scopes:<10}  {clip(key.name, 24):<24}"
        print(escape_controls(f"{line}  {clip(who, 40)}  {end}".rstrip()))


@app_keys.command("revoke")
def revoke_key(kid: Kid, as_json: AsJson = False) -> None:
    """Revoke a key, and with it all keys below it."""

    async def revoke(control: Control) -> models.KeyView:
        return models.key_view(await control.keys.revoke(kid), time.time())

    _show(_run(revoke), as_json, f"Revoked {kid}. Every worker refuses it within a second.")


@app_keys.command("rotate")
def rotate_key(
    kid: Kid,
    overlap: Annotated[str, typer.Option(help="How long the old secret still works.")] = "24h",
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and print it, this once. Its id and its rights stay."""

    async def rotate(control: Control) -> models.IssuedKey:
        wish = models.Rotation(overlap_s=_seconds(overlap))
        key, token = await control.keys.rotate(kid, wish.overlap_s)
        return models.IssuedKey(key=models.key_view(key, time.time()), token=token)

    _show_issued(_run(rotate), as_json)


@app_provider_keys.command("add")
def add_provider_key(
    provider: Annotated[str, typer.Argument(help="Whose key it is: openai, anthropic …")],
    name: Annotated[str, typer.Option(help="To tell several of a provider apart.")] = "default",
    tenant: Annotated[str, typer.Option(help="Whose calls it pays for; * is everybody's.")] = "*",
    weight: Annotated[float, typer.Option(help="A key is drawn in proportion to it.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Store a provider key. It is read from a prompt or from standard input."""
    secret = _secret(f"The key of {provider}")

    async def add(control: Control) -> models.ProviderKeyView:
        wish = models.NewProviderKey(
            provider=provider, name=name, tenant=tenant, weight=weight, key=secret
        )
        return models.provider_key_view(await control.provider_keys.add(wish), usable=True)

    view = _run(add)
    _show(view, as_json, f"Stored as {view.id} for {view.provider}.")


@app_provider_keys.command("list")
def list_provider_keys(as_json: AsJson = False) -> None:
    """List stored provider keys, without the keys."""

    async def page(control: Control) -> models.ProviderKeyList:
        rows = await control.provider_keys.all()
        views = [models.provider_key_view(row, usable=usable) for row, usable in rows]
        return models.ProviderKeyList(provider_keys=views)

    found = _run(page)
    if as_json:
        _print_json(found)
        return
    for row in found.provider_keys:
        state = "" if row.usable else "  cannot be opened: another LLMGATE_SECRET_KEY, or altered"
        line = f"{row.id}  {row.provider}  {row.name}  {row.tenant}  …{row.hint}{state}"
        print(escape_controls(line))


@app_provider_keys.command("replace")
def replace_provider_key(
    row: Annotated[str, typer.Argument(metavar="ID", help="pk_…")], as_json: AsJson = False
) -> None:
    """Put another key in the place of one. It is read from a prompt or from standard input."""
    secret = models.ReplacedProviderKey(key=_secret("The new key")).key.get_secret_value()

    async def replace(control: Control) -> models.ProviderKeyView:
        return models.provider_key_view(
            await control.provider_keys.replace(row, secret), usable=True
        )

    _show(_run(replace), as_json, f"Replaced {row}.")


@app_provider_keys.command("remove")
def remove_provider_key(
    row: Annotated[str, typer.Argument(metavar="ID", help="pk_…")], as_json: AsJson = False
) -> None:
    """Remove a stored provider key."""

    async def remove(control: Control) -> models.Removed:
        await control.provider_keys.remove(row)
        return models.Removed(removed=row)

    _show(_run(remove), as_json, f"Removed {row}.")


@app_provider_keys.command("reseal")
def reseal_provider_keys(as_json: AsJson = False) -> None:
    """Seal all with the secret key in force, so that the old one can be retired."""

    async def reseal(control: Control) -> models.Resealed:
        return models.Resealed(resealed=await control.provider_keys.reseal())

    view = _run(reseal)
    _show(view, as_json, f"Sealed {view.resealed} anew.")


def _run(ask: Callable[[Control], Awaitable[T]]) -> T:
    """Run `ask` on the store of the settings; what cannot be done is one line and exit 1."""
    settings = load_settings()

    async def run() -> T:
        control = control_of(settings, lambda: registry_of(settings))
        try:
            return await ask(control)
        finally:
            await control.aclose()

    try:
        return asyncio.run(run())
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        _fail("; ".join(lines))
    except (ControlError, BackendError, typer.BadParameter) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(escape_controls(message), file=sys.stderr)
    raise typer.Exit(1)


def _show(view: BaseModel, as_json: bool, text: str) -> None:
    if as_json:
        _print_json(view)
    else:
        print(escape_controls(text))


def _show_issued(issued: models.IssuedKey, as_json: bool) -> None:
    if as_json:
        _print_json(issued)
        return
    key = issued.key
    print(escape_controls(f"{key.kid}  tenant {key.tenant}. Shown this once:"), file=sys.stderr)
    print(issued.token)


def _print_json(view: BaseModel) -> None:
    print(view.model_dump_json(indent=2))


def _secret(prompt: str) -> SecretStr:
    text = getpass.getpass(f"{prompt}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not text.strip():
        _fail("Nothing was read. Type the key at the prompt, or pipe it in.")
    return SecretStr(text.strip())


def _pairs(tags: list[str] | None) -> dict[str, str]:
    pairs = {}
    for tag in tags or ():
        name, equals, value = tag.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"Write {tag!r} as NAME=VALUE.")
        pairs[name] = value
    return pairs


def _seconds(text: str) -> float:
    match = DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"Write {text!r} as 30d, 12h, 10m or 0s.")
    return int(match[1]) * SECONDS[match[2]]


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    if DURATION.fullmatch(text):
        return datetime.now(UTC) + timedelta(seconds=_seconds(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"Write {text!r} as 30d, 2027-01-31 or a full date.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
