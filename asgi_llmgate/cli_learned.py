"""`llmgate cache aliases, entries, learned, feedback`: what the semantic cache knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from asgi_llmgate.cli_opened import AsJson, fail, print_json, run
from asgi_llmgate.cli_table import clip, table_lines
from asgi_llmgate.core.record import escape_controls

__all__ = ["add_learned"]

BAR = 30

Namespace = Annotated[str | None, typer.Option(help="Only of this tenant, or partition.")]
Limit = Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000, help="How many.")]

app_learned = typer.Typer(help="What was learned of verdicts.", no_args_is_help=True)


def add_learned(app: typer.Typer) -> None:
    app.command()(aliases)
    app.command()(entries)
    app.command()(feedback)
    app.add_typer(app_learned, name="learned")


def aliases(namespace: Namespace = None, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List phrasings and the answers they lead to, newest first."""
    rows = run(lambda opened: opened.needs_learned().aliases(namespace=namespace, limit=limit))
    if as_json:
        print_json({"aliases": rows})
        return
    table = [("ANSWER", "AGE", "QUESTION")]
    table += [(row["answer"][:12], _age(row["age_s"]), _text(row["question"])) for row in rows]
    _print_table(table)


def entries(namespace: Namespace = None, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List answers that several phrasings may share."""
    rows = run(lambda opened: opened.needs_learned().entries(namespace=namespace, limit=limit))
    if as_json:
        print_json({"entries": rows})
        return
    table = [("ANSWER", "PHRASINGS", "AGE", "COST", "MODEL", "FIRST QUESTION")]
    for row in rows:
        age = _age(row["age_s"]) if row["stored"] else "gone"
        cost = "-" if row["cost_usd"] is None else f"${row['cost_usd']}"
        model = _text(row["model"] or "-")
        question = _text(row["questions"][-1])
        table.append((row["answer"][:12], str(row["aliases"]), age, cost, model, question))
    _print_table(table)


def feedback(
    call: Annotated[str, typer.Argument(metavar="ID", help="LLMGate-Id of the call.")],
    wrong: Annotated[bool, typer.Option("--wrong/--right", help="Was the answer wrong?")],
    tenant: Annotated[str | None, typer.Option(help="Whose call it was.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a semantic hit of the last day was wrong."""
    told = run(
        lambda opened: opened.needs_learned().feedback(
            call, wrong=wrong, tenant=tenant, is_admin=True
        )
    )
    if told is None:
        fail(f"There is no semantic hit {call!r} within the last day.")
    if as_json:
        print_json(told)
    elif not told["counted"]:
        print("It was judged before; a call counts once.")
    else:
        print("Counted. The phrasing is forgotten." if told["quarantined"] else "Counted.")


@app_learned.command()
def show(
    namespace: Namespace = None,
    max_error: Annotated[
        list[float] | None, typer.Option(min=1e-6, max=0.5, help="A further bound; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show labels by similarity, and how precise hits are under each bound."""
    found = run(lambda opened: opened.needs_learned().report(namespace, max_errors=max_error or ()))
    if as_json:
        print_json(found)
        return
    if not found["partitions"]:
        print("Nothing was learned yet: there is no verdict on any stored answer.")
    for partition in found["partitions"]:
        for line in _report_lines(partition):
            print(line)
    if found["left_out"]:
        print(f"And {found['left_out']} more; name a --namespace.")


@app_learned.command()
def export(namespace: Namespace = None) -> None:
    """Print the models, and each verdict of a namespace, as JSON."""
    print_json(run(lambda opened: opened.needs_learned().export(namespace)))


@app_learned.command()
def reset(
    namespace: Namespace = None,
    everything: Annotated[bool, typer.Option("--all", help="Of every tenant.")] = False,
    as_json: AsJson = False,
) -> None:
    """Forget what was learned; phrasings and answers stay."""
    if (namespace is None) != everything:
        fail("Name a --namespace, or --all.")
    number = run(lambda opened: opened.needs_learned().reset(namespace, everything=everything))
    if as_json:
        print_json({"reset": True, "partitions": number})
    else:
        print(f"Forgot what {number} of the partitions had learned.")


def _report_lines(partition: Mapping[str, Any]) -> Iterator[str]:
    labels = partition["labels"]
    yield f"partition {partition['partition']}: {partition['state']}"
    yield f"{labels['total']} labels, {labels['right']} right and {labels['wrong']} wrong"
    yield ""
    cells: Sequence[Mapping[str, Any]] = partition["histogram"]
    most = max((cell["right"] + cell["wrong"] for cell in cells), default=0)
    if most:
        yield "cosine       right  wrong"
    for cell in cells:
        right, wrong = cell["right"], cell["wrong"]
        width = round(BAR * right / most), round(BAR * wrong / most)
        bar = "█" * width[0] + "░" * width[1]
        yield f"{cell['from']:.2f}-{cell['to']:.2f} {right:>7} {wrong:>6}  {bar}"
    yield ""
    table = [("BOUND", "FROM P", "PRECISION", "80 % BETWEEN", "OF CANDIDATES", "WRONG")]
    for row in partition["bounds"]:
        has = row["precision"] is not None
        table.append(
            (
                f"{row['max_error']:.3g}",
                "-" if row["threshold"] is None else f"{row['threshold']:.3f}",
                f"{row['precision']:.2%}" if has else "-",
                f"{row['precision_low']:.2%}-{row['precision_high']:.2%}" if has else "-",
                f"{row['would_serve']} of {row['candidates']}",
                str(row["would_be_wrong"]),
            )
        )
    yield from table_lines(table)
    yield ""


def _print_table(table: Sequence[tuple[str, ...]]) -> None:
    for line in table_lines(table):
        print(line)


def _age(seconds: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _text(text: str) -> str:
    return clip(escape_controls(text), 80)
