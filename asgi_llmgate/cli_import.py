"""`llmgate import`: settings of other gateways, turned into ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["app_import"]

app_import = typer.Typer(help="Take over the settings of another gateway.", no_args_is_help=True)


@app_import.callback()
def common() -> None:
    """Take over the settings of another gateway."""


@app_import.command()
def litellm(
    config: Annotated[Path, typer.Argument(help="The proxy's config.yaml.")],
    output: Annotated[Path, typer.Option(help="Where to write.")] = Path("llmgate.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite it.")] = False,
) -> None:
    """Write llmgate.toml from LiteLLM's config.yaml; list what could not be carried."""
    from asgi_llmgate.migrate_litellm import import_litellm
    from asgi_llmgate.providers.registry import load_registry

    if output.exists() and not force:
        print(f"{output} exists. Use --output, or --force to overwrite it.", file=sys.stderr)
        raise typer.Exit(1)
    result = import_litellm(_read(config), load_registry())
    output.write_text(result.toml)
    print(f"Wrote {output}.")
    if result.variables:
        print("\nKeys are not in it. Set these variables:\n")
        for name, sources in result.variables.items():
            if all(source.isidentifier() for source in sources):
                print(f'  export {name}="{",".join("$" + source for source in sources)}"')
            else:
                print(f"  {name}: {'; '.join(sources)}")
    if result.lost:
        print("\nNot carried:\n")
        for line in result.lost:
            print(f"  {line}")


def _read(config: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]  # comes without types

    try:
        value = yaml.safe_load(config.read_text())
    except OSError as error:
        print(f"{config} cannot be read: {error.strerror}.", file=sys.stderr)
        raise typer.Exit(1) from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place is not None else ""
        print(f"{config} is not valid YAML{line}.", file=sys.stderr)
        raise typer.Exit(1) from None
    if not isinstance(value, dict):
        print(f"{config} holds no settings.", file=sys.stderr)
        raise typer.Exit(1)
    return value
