"""Figure 8 of the Dynamo paper from our own simulation, with our claim on the same chart.

    python -m benchmarks.figure8           draws docs/figure8.svg and prints the numbers
    python -m benchmarks.figure8 --check   exit status 1 if the drawing is not current
    python -m benchmarks.figure8 --fit     how well other Q of strategy 2 fit the paper's marks

The paper prints no numbers for this figure. `PUBLISHED` are its marks as measured on the picture,
to ±0.005 (strategy 3: ±0.01).
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from math import log2
from pathlib import Path

from benchmarks.strategies import bound, claim, mean, strategy_1, strategy_2, strategy_3

DRAWING = Path(__file__).resolve().parents[1] / "docs" / "figure8.svg"
SIZES = [60 << k for k in range(10)]  # where the paper has its marks
OUR_SIZES = [64 << k for k in range(9)]  # Q is a power of two
PUBLISHED = {
    "strategy 1": [0.52, 0.61, 0.69, 0.76, 0.82, 0.87, 0.91, 0.93, 0.95, 0.96],
    "strategy 2": [0.53, 0.61, 0.70, 0.76, 0.82, 0.85, 0.88, 0.87, 0.85, 0.84],
    "strategy 3": [0.86, 0.87, 0.90, 0.92, 0.94, 0.96, 0.97, 0.98, 0.98, 0.99],
}
_STRATEGIES = {"strategy 1": strategy_1, "strategy 2": strategy_2, "strategy 3": strategy_3}
_COLOURS = {
    "strategy 1": "#c0392b",
    "strategy 2": "#b7791f",
    "strategy 3": "#2b6cb0",
    "our claim": "#276749",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    simulated: dict[str, list[float]]  # of each strategy, at SIZES
    claim: list[float]  # at OUR_SIZES

    def deviation(self, strategy: str) -> float:
        """The largest distance from a mark of the paper."""
        pairs = zip(self.simulated[strategy], PUBLISHED[strategy], strict=True)
        return max(abs(ours - theirs) for ours, theirs in pairs)


def curves() -> Curves:
    return Curves(
        simulated={
            name: [mean(strategy, size) for size in SIZES] for name, strategy in _STRATEGIES.items()
        },
        claim=[claim(size) for size in OUR_SIZES],
    )


def draw(found: Curves) -> str:
    """The chart as SVG: lines are simulated, rings are the paper's marks."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 470" font-size="13"'
        ' font-family="sans-serif" fill="#222">',
        '<rect width="760" height="470" fill="#fff"/>',
        _text(70, 26, "Load balancing efficiency: mean load / load of the busiest node", size=16),
        _text(70, 46, "30 nodes, N=3. Lines: simulated. Rings: the marks of the paper's Figure 8."),
    ]  # fmt: skip
    for tenth in range(5, 11):
        y = _y(tenth / 10)
        parts.append(f'<path d="M70 {y}H730" stroke="#ddd"/>')
        parts.append(_text(62, y + 4.5, f"{tenth / 10:.1f}", anchor="end"))
    for size in SIZES:
        parts.append(_text(_x(size), 425, f"{size:,}", anchor="middle"))
    parts.append(
        _text(400, 452, "tokens (strategies 1 and 2) or partitions Q (strategy 3 and our claim)",
              anchor="middle")
    )  # fmt: skip
    for name, values in found.simulated.items():
        parts.append(_line(name, SIZES, values))
        parts += [
            f'<circle cx="{_x(size)}" cy="{_y(value)}" r="4.5" fill="none"'
            f' stroke="{_COLOURS[name]}" stroke-width="1.3"/>'
            for size, value in zip(SIZES, PUBLISHED[name], strict=True)
        ]
    parts.append(_line("our claim", OUR_SIZES, found.claim))
    parts += [
        f'<circle cx="{_x(size)}" cy="{_y(value)}" r="3.5" fill="{_COLOURS["our claim"]}"/>'
        for size, value in zip(OUR_SIZES, found.claim, strict=True)
    ]
    for name, x, y in (
        ("our claim", 190, 0.945),
        ("strategy 3", 165, 0.84),
        ("strategy 1", 597, 0.907),
        ("strategy 2", 600, 0.81),
    ):
        parts.append(_text(x, _y(y), name, colour=_COLOURS[name], size=15))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(size: int) -> float:
    return round(80 + 640 * log2(size / 60) / 9, 1)


def _y(value: float) -> float:
    return round(400 - 330 * (value - 0.5) / 0.5, 1)


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", colour: str = "#222", size: int = 13
) -> str:
    return (
        f'<text x="{x}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
        f' font-size="{size}">{words}</text>'
    )


def _line(name: str, sizes: list[int], values: list[float]) -> str:
    points = " ".join(f"{_x(s)},{_y(v)}" for s, v in zip(sizes, values, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{_COLOURS[name]}" stroke-width="2"/>'


def _print(found: Curves) -> None:
    print(f"{'tokens or partitions':24}" + "".join(f"{size:8,}" for size in SIZES))
    for name, values in found.simulated.items():
        print(f"{name + ', paper':24}" + "".join(f"{value:8.2f}" for value in PUBLISHED[name]))
        print(f"{name + ', simulated':24}" + "".join(f"{value:8.3f}" for value in values))
    print(f"\n{'partitions':24}" + "".join(f"{size:8,}" for size in OUR_SIZES))
    print(f"{'our claim':24}" + "".join(f"{value:8.3f}" for value in found.claim))
    print(f"{'the best there can be':24}" + "".join(f"{bound(size):8.3f}" for size in OUR_SIZES))
    print("\nsmall clusters           strategy 1  strategy 3  our claim   the best there can be")
    for nodes, size in ((5, 64), (5, 256), (8, 64), (12, 64), (12, 256)):
        one, three = (mean(strategy, size, nodes=nodes) for strategy in (strategy_1, strategy_3))
        ours, best = claim(size, nodes=nodes), bound(size, nodes=nodes)
        print(f"{f'{nodes} nodes, Q={size}':24}{one:11.3f}{three:12.3f}{ours:11.3f}{best:12.3f}")


def _print_fit() -> None:
    for partitions in (256, 512, 960, 1_024, 1_536, 2_048, 4_096):
        strategy = partial(strategy_2, partitions=partitions)
        strategy.__name__ = "strategy_2"  # type: ignore[attr-defined]
        values = [mean(strategy, size) for size in SIZES]
        off = max(abs(a - b) for a, b in zip(values, PUBLISHED["strategy 2"], strict=True))
        print(f"Q={partitions:5}: at most {off:.3f} from a mark")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--fit", action="store_true", help="other Q for strategy 2")
    options = parser.parse_args()
    if options.fit:
        _print_fit()
        return 0
    found = curves()
    drawing = draw(found)
    if options.check:
        if DRAWING.read_text(encoding="utf-8") == drawing:
            return 0
        print(f"docs/{DRAWING.name} is not current; run: python -m benchmarks.figure8")
        return 1
    _print(found)
    DRAWING.write_text(drawing, encoding="utf-8")
    print(f"\nwritten: docs/{DRAWING.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
