"""`llmgate upstreams`: which keys there are, and what is not called at the moment."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from asgi_llmgate.errors import BackendError
from asgi_llmgate.settings import load_settings

__all__ = ["upstreams"]


def upstreams(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show provider keys, and what is not called at the moment, and why."""
    from asgi_llmgate.api.upstreams import upstream_rows
    from asgi_llmgate.assemble import board_of, registry_of

    settings = load_settings()
    board = board_of(settings)
    try:
        rows = upstream_rows(registry_of(settings), board)
    except BackendError as error:
        print(f"What the workers know cannot be read: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        board.close()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if not rows:
        print("No provider has a key, and nothing fails.", file=sys.stderr)
    for row in rows:
        where = f"{row['provider']}  {row['key']}  {row['model'] or '*'}"
        wait = "" if row["retry_in_s"] is None else f", again in {row['retry_in_s']:g} s"
        why = f" ({row['reason']}{wait})" if row["reason"] else ""
        print(f"{row['state']:<9}  {where}{why}")
