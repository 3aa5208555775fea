"""A plot of hits against wrong hits, as SVG that needs no font and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["Curve", "chart"]

WIDTH, HEIGHT, GAP = 340, 250, 56
TOP = 64
COLOURS = {"llmgate": "#0b6e4f", "static": "#b3541e", "vCache": "#3b5fa0"}

Curve = Sequence[tuple[float, float, str]]
"""Wrong per hit, hits per request, and what the point is called."""


def chart(panels: Mapping[str, Mapping[str, Curve]], most_wrong: float = 0.1) -> str:
    """Return one panel per stream, with one line per policy."""
    width = GAP + len(panels) * (WIDTH + GAP)
    box = f"0 0 {width} {HEIGHT + TOP + 56}"
    title = "Hits, of all calls (up), and wrong ones, of all hits (right): up and left is better"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-size="12">',
        "<style>text {font-family: sans-serif; fill: #444}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{GAP}" y="24" font-size="15">{title}</text>',
    ]
    for number, (name, curves) in enumerate(panels.items()):
        parts += _panel(name, curves, GAP + number * (WIDTH + GAP), most_wrong)
    for number, (policy, colour) in enumerate(COLOURS.items()):
        x = GAP + number * 110
        y = HEIGHT + TOP + 44
        parts.append(f'<circle cx="{x + 5}" cy="{y - 4}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="{y}">{policy}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(name: str, curves: Mapping[str, Curve], left: float, most_wrong: float) -> list[str]:
    def place(wrong: float, hits: float) -> tuple[float, float]:
        x = left + min(wrong, most_wrong) / most_wrong * WIDTH
        return round(x, 1), round(TOP + (1 - hits) * HEIGHT, 1)

    parts = [f'<text x="{left}" y="{TOP - 14}">{escape(name)}</text>']
    for tenth in range(0, 11, 2):
        x, y = place(0, tenth / 10)
        parts.append(f'<path d="M{x} {y}h{WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{tenth * 10}%</text>')
    for step in range(6):
        wrong = most_wrong * step / 5
        x, y = place(wrong, 0)
        parts.append(f'<path d="M{x} {TOP}v{HEIGHT}" stroke="#eee"/>')
        parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{wrong:.0%}</text>')
    for policy, points in curves.items():
        colour = COLOURS[policy]
        places = [place(wrong, hits) for wrong, hits, _ in points if wrong <= most_wrong]
        line = " ".join(f"{x},{y}" for x, y in places)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        for wrong, hits, label in points:
            if wrong <= most_wrong:
                x, y = place(wrong, hits)
                title = f"{policy} {label}: {hits:.1%} hits, {wrong:.2%} wrong"
                parts.append(
                    f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}">'
                    f"<title>{escape(title)}</title></circle>"
                )
    return parts
