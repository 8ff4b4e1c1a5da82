#!/usr/bin/env python3
"""Draws what peaks.py kept: peak memory by the number of blocks, beside the model's size, as an SVG.

    plot.py peaks.json -o peaks.svg --limit 700

The files of several runs are laid over one another. Standard library only.
"""
import argparse
import json
import pathlib

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 110, 20, 44
COLOURS = ("#3366aa", "#cc6633", "#339966", "#884499", "#aa9922", "#555555")


def series_of(files: list) -> dict:
    """Name → [(blocks, megabytes)]."""
    series: dict = {}
    for file in files:
        for blocks, found in json.loads(file.read_text()).items():
            series.setdefault("weights", {})[int(blocks)] = found["model_bytes"] / 1e6
            for job, numbers in found.items():
                if isinstance(numbers, dict) and numbers["code"] == 0:
                    series.setdefault(job, {})[int(blocks)] = numbers["peak"] / 1e6
    return {name: sorted(points.items()) for name, points in series.items()}


def draw(series: dict, limit: float) -> str:
    right = max(blocks for points in series.values() for blocks, _ in points)
    top = max([limit, *(megabytes for points in series.values() for _, megabytes in points)]) * 1.05

    def x(blocks: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * blocks / right

    def y(megabytes: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * megabytes / top

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
             f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#333"/>',
             f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">blocks</text>',
             f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">MB</text>']
    step = next(size for size in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if top / size < 8)
    for value in range(0, int(top), step):
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>'
                     f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
    for blocks in sorted({blocks for points in series.values() for blocks, _ in points}):
        parts.append(f'<text x="{x(blocks):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{blocks}</text>')
    if limit:
        parts.append(f'<path d="M{LEFT} {y(limit):.1f}H{WIDTH - RIGHT}" stroke="#c00" stroke-dasharray="5 4"/>'
                     f'<text x="{WIDTH - RIGHT + 6}" y="{y(limit) + 4:.1f}" fill="#c00">--max-memory</text>')
    last = None
    for (name, points), colour in zip(sorted(series.items(), key=lambda item: -item[1][-1][1]), COLOURS):
        path = " ".join(f"{x(blocks):.1f},{y(megabytes):.1f}" for blocks, megabytes in points)
        label = y(points[-1][1]) if last is None else max(y(points[-1][1]), last + 13)  # labels do not overlap
        last = label
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
                     f'<text x="{WIDTH - RIGHT + 6}" y="{label + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    parser.add_argument("-o", "--out", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=float, default=0, help="megabytes of --max-memory")
    args = parser.parse_args()
    args.out.write_text(draw(series_of(args.files), args.limit))


if __name__ == "__main__":
    main()
