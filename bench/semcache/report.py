"""Run everything, print the bars."""

from __future__ import annotations

import json
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from asgi_llmgate.core.semantic.alias import Vector
from asgi_llmgate.core.semantic.guards import differences
from asgi_llmgate.core.semantic.simulate import Asked, Outcome
from asgi_llmgate.core.semantic.words import words
from bench.semcache import bars
from bench.semcache.baselines import Static, VCache
from bench.semcache.chart import chart
from bench.semcache.measure import Figures, figures, ours, served_swaps, theirs
from bench.semcache.sets import Files, Texts, long_tail, read, stream
from bench.semcache.swaps import generate, with_ids
from bench.semcache.vectors import Vectors

__all__ = ["Run", "write"]

MAX_ERRORS = (0.01, 0.02, 0.05, 0.1)
THRESHOLDS = (0.8, 0.85, 0.9, 0.95)
DELTAS = (0.01, 0.02, 0.05)
SWAPS_EACH = 300


class Run(NamedTuple):
    """What is measured. `share` of each stream is used."""

    files: Files
    vectors: Vectors
    seeds: int
    share: float


class Task(NamedTuple):
    """One stream through one policy. `policy`: llmgate, noisy, unworded, static or vCache."""

    stream: str
    policy: str
    value: float
    seed: int


_questions: dict[str, list[tuple[str, str]]] = {}
_vectors: dict[str, Vector] = {}


def write(run: Run, plot: Path | None = None, json_file: Path | None = None) -> bool:
    """Measure, print, and return whether all bars are held."""
    texts = read(run.files)
    _load(run, texts)
    done = _measure(run)
    swapped = _swaps()
    for line in bars.table(done, swapped):
        print(line)
    vetoed = [
        (pair.one, pair.other)
        for pair in texts.traps
        if pair.is_same and differences(words(pair.one), words(pair.other))
    ]
    same = sum(pair.is_same for pair in texts.traps)
    rows = [
        *bars.streams(done),
        *bars.swaps(swapped),
        bars.Bar("hand-written paraphrases vetoed", len(vetoed), 0, f"of {same}"),
        *bars.against(done),
    ]
    for line in bars.verdicts(rows):
        print(line)
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot.write_text(chart(bars.curves(done)))
    if json_file is not None:
        figures_of = {"|".join(map(str, key)): found._asdict() for key, found in done.items()}
        found = {
            "figures": figures_of,
            "swaps": {"|".join(map(str, key)): both for key, both in swapped.items()},
        }
        json_file.write_text(json.dumps(found, indent=1))
    return all(row.is_held for row in rows)


def _load(run: Run, texts: Texts) -> None:
    both = [*texts.banking, *texts.clinc]
    for name, questions in (("BANKING77", texts.banking), ("CLINC150", texts.clinc)):
        if questions:
            count = round(len(questions) * run.share)
            _questions[name] = random.Random(0).sample(questions, count)
    if both:
        _questions["long tail"] = both
    _swapped.update(_generate(texts, run.share))
    needed = [text for text, _ in both]
    needed += [text for pairs_of in _swapped.values() for pair in pairs_of for text in pair]
    needed = list(dict.fromkeys(needed))
    found = run.vectors.of(needed, lambda done, of: _progress("embedding", done, of))
    _vectors.update(zip(needed, found, strict=True))


_swapped: dict[str, list[tuple[str, str]]] = {}


def _generate(texts: Texts, share: float) -> dict[str, list[tuple[str, str]]]:
    sentences = [text for pair in (*texts.paws, *texts.traps, *texts.mock) for text in pair[:2]]
    asked = [text for text, _ in (*texts.banking, *texts.clinc)]
    each = round(SWAPS_EACH * share) if share < 1 else SWAPS_EACH
    made = generate([*sentences, *asked], each)
    made["id"] = with_ids(random.Random(1).sample(asked, len(asked)), each)
    return made


def _measure(run: Run) -> dict[bars.Key, Figures]:
    tasks = []
    for seed in range(run.seeds):
        for name in _questions:
            tasks += [Task(name, "llmgate", value, seed) for value in MAX_ERRORS]
            tasks += [Task(name, "static", value, seed) for value in THRESHOLDS]
            tasks += [Task(name, "vCache", value, seed) for value in DELTAS]
            tasks.append(Task(name, "unworded", bars.MAX_ERROR[name], seed))
        if "BANKING77" in _questions:
            tasks.append(Task("BANKING77", "noisy", 0.02, seed))
    runs: dict[bars.Key, list[list[Outcome]]] = {}
    workers = max(1, min(4, (os.cpu_count() or 1)))
    with ProcessPoolExecutor(workers) as pool:
        waiting = {pool.submit(_one, task): task for task in tasks}
        for number, future in enumerate(as_completed(waiting), 1):
            task = waiting[future]
            runs.setdefault((task.stream, task.policy, task.value), []).append(future.result())
            _progress("streams", number, len(tasks))
    return {key: figures(found) for key, found in runs.items()}


def _stream(name: str, seed: int) -> list[Asked]:
    questions = _questions[name]
    if name == "long tail":
        questions = long_tail(questions, seed)
    return stream(questions, _vectors, seed)


def _one(task: Task) -> list[Outcome]:
    asked = _stream(task.stream, task.seed)
    match task.policy:
        case "static":
            return theirs(Static(task.value), asked)
        case "vCache":
            return theirs(VCache(task.value, task.seed), asked)
        case policy:
            noise = 0.02 if policy == "noisy" else 0.0
            wording = policy != "unworded"
            return ours(asked, task.value, seed=task.seed, noise=noise, wording=wording)[2]


def _swaps() -> dict[tuple[str, str, float], tuple[int, int]]:
    """Return how many of how many are served: by what was warmed, kind, and bound."""
    found = {}
    for name in [name for name in ("BANKING77", "CLINC150") if name in _questions]:
        _, mind, _ = ours(_stream(name, 0), 0.02, seed=0)
        for kind, pairs in _swapped.items():
            asked = [
                (Asked(one, one, _vectors[one]), Asked(other, other, _vectors[other]))
                for one, other in pairs
            ]
            for max_error in (0.02, 0.05):
                served = served_swaps(mind, asked, [], max_error)
                found[name, kind, max_error] = (served, len(pairs))
        _progress(f"swaps, warmed by {name}", 1, 1)
    return found


def _progress(what: str, done: int, of: int) -> None:
    if done % max(1, of // 100) == 0 or done == of:
        width = 30 * done // max(1, of)
        bar = "#" * width + "." * (30 - width)
        end = "\n" if done == of else ""
        print(f"\r{what:24} [{bar}] {done}/{of}", end=end, file=sys.stderr, flush=True)
