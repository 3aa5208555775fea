"""The command `llmgate`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from asgi_llmgate._version import __version__
from asgi_llmgate.cli_budgets import app_budgets
from asgi_llmgate.cli_cache import app_cache
from asgi_llmgate.cli_doctor import run_checks
from asgi_llmgate.cli_import import app_import
from asgi_llmgate.cli_keys import app_keys, app_provider_keys
from asgi_llmgate.cli_logs import app_logs, stats
from asgi_llmgate.cli_policy import app_policy
from asgi_llmgate.cli_upstreams import upstreams
from asgi_llmgate.config_check import check_settings, unknown_variables
from asgi_llmgate.errors import ConfigurationError
from asgi_llmgate.settings import load_settings

__all__ = ["cli", "main"]

cli = typer.Typer(
    help="An LLM gateway: one base_url for every provider, with costs, logs and limits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config = typer.Typer(help="Check and show the settings.", no_args_is_help=True)
cli.add_typer(config, name="config")
cli.add_typer(app_budgets, name="budgets")
cli.add_typer(app_cache, name="cache")
cli.add_typer(app_import, name="import")
cli.add_typer(app_keys, name="keys")
cli.add_typer(app_logs, name="logs")
cli.add_typer(app_policy, name="policy")
cli.add_typer(app_provider_keys, name="provider-keys")
cli.command()(stats)
cli.command()(upstreams)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


# How long calls under way may take once the server is told to end; then they are cut off, which
# their callers notice and the log says. Without it one endless stream would keep it from ending.
DRAIN_S = 120


def main() -> None:
    """Run the command; mistakes in the settings are two lines, not a traceback."""
    try:
        cli()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"llmgate {__version__}")
        raise typer.Exit


@cli.callback()
def common(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """An LLM gateway."""


@cli.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8790,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Serve the gateway."""
    prepare(host, port)
    print(greeting(host, port), file=sys.stderr)
    run_server(host, port, workers)


@cli.command()
def demo(host: Host = "127.0.0.1", port: Port = 8790) -> None:
    """Serve with a provider that needs no key, and print calls to try."""
    os.environ["LLMGATE_DEMO"] = "true"
    prepare(host, port)
    command = own_command()
    url = f"http://{shown_host(host)}:{port}"
    body = (
        '{"model":"demo/echo","stream":true,"messages":[{"role":"user","content":"Hello there"}]}'
    )
    print(
        f"""
  A gateway with a provider that needs no key, at invented prices. In another terminal:

    curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{body}'

  Then, in this folder, what it cost and how long it took:

    {command} logs tail
    {command} stats --by model
""",
        file=sys.stderr,
    )
    run_server(host, port, workers=1)


def prepare(host: str, port: int) -> None:
    """Tell mistakes once, before any worker starts and before anything is announced."""
    settings = load_settings()
    check_settings(settings)
    warn_of_unknown_variables()
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"Nobody can listen on {host}:{port}: {(error.strerror or str(error)).lower()}.\n"
                "HINT: choose another with --port or --host."
            ) from None


def own_command() -> str:
    """Return how this command is called from a shell: by name, or by its path."""
    found = shutil.which("llmgate")
    mine = sys.argv[0]
    if Path(mine).name != "llmgate" or (found is not None and Path(found).samefile(mine)):
        return "llmgate"
    return mine


def run_server(host: str, port: int, workers: int) -> None:
    import uvicorn

    from asgi_llmgate.server import BoundedProtocol

    uvicorn.run(
        "asgi_llmgate:app",
        host=host,
        port=port,
        workers=workers,
        http=BoundedProtocol,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=DRAIN_S,
    )


def shown_host(host: str) -> str:
    return "localhost" if host in ("0.0.0.0", "127.0.0.1", "::") else host  # noqa: S104


def greeting(host: str, port: int) -> str:
    url = f"http://{shown_host(host)}:{port}"
    return f"""
  llmgate {__version__} on {url}

    OpenAI(base_url="{url}/v1")
    Anthropic(base_url="{url}")
    genai.Client(http_options={{"base_url": "{url}"}})
"""


@cli.command("admin-token")
def show_admin_token(as_json: AsJson = False) -> None:
    """Print the admin token, making it if there is none."""
    from asgi_llmgate.keyfile import admin_token

    settings = load_settings()
    given = settings.admin_token.get_secret_value() if settings.admin_token else None
    token = admin_token(given, settings.data_dir)
    print(json.dumps({"admin_token": token}) if as_json else token)


@cli.command()
def providers(
    as_json: AsJson = False,
    search: Annotated[str, typer.Argument(help="Part of an id, name or alias.")] = "",
) -> None:
    """List the providers: what they speak, and whether a key is set."""
    from asgi_llmgate.assemble import registry_of

    rows = []
    for provider in registry_of(load_settings()).providers.values():
        names = (provider.id, provider.name, *provider.aliases)
        if not any(search.lower() in name.lower() for name in names):
            continue
        rows.append(
            {
                "id": provider.id,
                "name": provider.name,
                "formats": sorted(provider.endpoints),
                "base_urls": dict(provider.endpoints),
                "needs_base_url": sorted(provider.dormant),
                "base_url_variable": provider.base_url_variable,
                "keys": [key.id for key in provider.keys],
                "aliases": sorted(provider.aliases),
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print(f"No provider is called anything like {search!r}.", file=sys.stderr)
        raise typer.Exit(1)
    width = max(len(str(row["id"])) for row in rows)
    print(f"{'PROVIDER':<{width}}  KEY  SPEAKS")
    for row in rows:
        mark = "key" if row["keys"] else "-  "
        spoken = ", ".join(row["formats"]) or f"nothing until {row['base_url_variable']} is set"
        print(f"{row['id']:<{width}}  {mark}  {spoken}")


@config.command("check")
def check_config() -> None:
    """Check the settings; exit 2 and name each mistake if there are any."""
    settings = load_settings()
    check_settings(settings)
    warn_of_unknown_variables()
    print("The settings are fine.")


@config.command("show")
def show_config(as_json: AsJson = False) -> None:
    """Show the settings in force, secrets masked."""
    values = json.loads(load_settings().model_dump_json(exclude={"config"}))
    if as_json:
        print(json.dumps(values, indent=2))
        return
    for name, value in flat(values):
        print(f"{name} = {json.dumps(value)}")


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value))
    return rows


def warn_of_unknown_variables() -> None:
    for name, near in unknown_variables(os.environ):
        meant = f" Did you mean {near}?" if near else ""
        print(f"warning: {name} is set, but there is no such setting.{meant}", file=sys.stderr)


@cli.command()
def doctor(as_json: AsJson = False) -> None:
    """Check data folder, database, price list and keys; exit 1 if a check fails."""
    checks = run_checks(load_settings())
    if as_json:
        print(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.state:<5} {check.name}: {check.detail}")
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
