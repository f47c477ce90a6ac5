"""Curves of the benchmark as an SVG file, by hand: tokens a second by slots, one line a contestant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 150, 40, 50
_COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#edae49", "#6b4e9b", "#444444")

Curve = Sequence[tuple[int, float]]
"""(slots, tokens a second)."""


def picture(title: str, curves: Mapping[str, Curve]) -> str:
    """The SVG text. Slots are drawn at equal distances, since they double; the rate begins at zero."""
    slots = sorted({x for curve in curves.values() for x, _ in curve})
    highest = _round_up(max((y for curve in curves.values() for _, y in curve), default=1.0))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
        *_axes(slots, highest),
    ]
    for number, (name, curve) in enumerate(curves.items()):
        parts += _line(name, number, [(_x(x, slots), _y(y, highest)) for x, y in sorted(curve)])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(slots: Sequence[int], highest: float) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">slots</text>']
    parts.append(f'<text x="16" y="{_TOP - 6}">tokens/s</text>')
    for step in range(6):
        y = _y(highest * step / 5, highest)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{highest * step / 5:g}</text>')
    marks = [f'<text x="{_x(x, slots):.1f}" y="{bottom + 18}" text-anchor="middle">{x}</text>' for x in slots]
    return parts + marks


def _line(name: str, number: int, points: Sequence[tuple[float, float]]) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    x, y = _WIDTH - _RIGHT + 14, _TOP + 10 + 20 * number
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *dots,
        f'<rect x="{x}" y="{y - 8}" width="10" height="10" fill="{colour}"/>',
        f'<text x="{x + 16}" y="{y + 1}">{escape(name)}</text>',
    ]


def _x(value: int, slots: Sequence[int]) -> float:
    place = slots.index(value) / max(len(slots) - 1, 1)
    return _LEFT + 10 + place * (_WIDTH - _LEFT - _RIGHT - 20)


def _y(value: float, highest: float) -> float:
    return _HEIGHT - _BOTTOM - value / highest * (_HEIGHT - _TOP - _BOTTOM)


def _round_up(value: float) -> float:
    """The next number of two digits that divides by five."""
    unit = 1.0
    while value / unit > 100:
        unit *= 10
    return -(-value / unit // 5) * 5 * unit or 1.0
