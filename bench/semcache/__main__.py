"""python -m bench.semcache: how good the semantic cache's decision is.

Streams of labelled questions go through the decision, a fixed threshold, and vCache; questions
with one decisive word changed are asked of what has learned from a stream. Prints a table of the
bars, held or missed, and draws hits against wrong hits.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.semcache.report import Run, write
from bench.semcache.sets import Files
from bench.semcache.vectors import Vectors


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.semcache", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("LLMGATE_PAIRS", "data/pairs")),
        help="folder with the sets (default: $LLMGATE_PAIRS, else %(default)s)",
    )
    for name, file in (
        ("banking", "banking77.jsonl"),
        ("clinc", "clinc150.jsonl"),
        ("paws", "paws_dev.tsv"),
        ("traps", "banking_traps.json"),
        ("mock", "gptcache_mock.json"),
    ):
        parser.add_argument(f"--{name}", type=Path, help=f"default: {file} in the folder")
        parser.set_defaults(**{f"{name}_name": file})
    parser.add_argument("--model", type=Path, help="folder of the embedder (default: ours)")
    parser.add_argument(
        "--vectors",
        type=Path,
        default=Path(tempfile.gettempdir()) / "llmgate-bench-vectors",
        help="where vectors are kept (default: %(default)s)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one run, a third of each stream")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the plot there (SVG)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    given = parser.parse_args(argv)
    names = ("banking", "clinc", "paws", "traps", "mock")
    files = Files(
        *(getattr(given, name) or given.data / getattr(given, f"{name}_name") for name in names)
    )
    if not any(file.exists() for file in files):
        parser.error(f"no set in {given.data}\nHINT: give its folder with --data.")
    model = given.model or _shipped()
    # Matrices are small; several threads for one only wait for each other. Read by the workers.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    run = Run(
        files,
        Vectors(model, given.vectors),
        seeds=1 if given.quick else given.seeds,
        share=1 / 3 if given.quick else 1.0,
    )
    held = write(run, plot=given.plot, json_file=given.json)
    return 0 if held else 1


def _shipped() -> Path:
    import asgi_llmgate

    package = Path(asgi_llmgate.__file__).parent
    return next(file.parent for file in package.rglob("model.onnx"))


sys.exit(main())
