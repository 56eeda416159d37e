"""The ratios that clipsearch is held to, in one table: `make bench` and `make bench-check`.

    python benchmarks/check.py --write      # measure, keep the ratios, write the table of README.md
    python benchmarks/check.py              # measure, and fail where a kept ratio fell by over 20 %
    python benchmarks/check.py --only changes

Every ratio is the larger the better, of two things measured in one run on one machine: processor
time or bytes, ours and that of what stands beside it. Seconds are never compared, for they are the
machine's. A ratio is the median of the rounds; of a machine that is busy with other work the least
are as good as the most, so that a check that fails is worth a second run before anything else.
"""

import argparse
import importlib
import json
import platform
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).parent
KEPT = HERE / "ratios.json"
README = HERE / "README.md"
BEGIN, END = "<!-- made by `make bench` -->", "<!-- end of what `make bench` makes -->"
MEASURED = ("changes", "manifest", "search", "vespa_feed")
"""Benchmarks that have a function `ratios`, which gives a name and a number for each."""
MOST_LOST = 0.2


def measure(name: str, rounds: int) -> dict[str, float]:
    """The ratios of a benchmark: the medians of its rounds."""
    module = importlib.import_module(name)
    found = [module.ratios() for _ in range(rounds)]
    return {key: statistics.median(each[key] for each in found) for key in found[0]}


def fallen(kept: dict[str, float], found: dict[str, float]) -> list[str]:
    """A sentence for each kept ratio that is measured and has fallen by over MOST_LOST."""
    return [
        f"{name}: {found[name]:.3g}, which was {kept[name]:.3g}"
        for name in kept.keys() & found.keys()
        if found[name] < (1 - MOST_LOST) * kept[name]
    ]


def table(ratios: dict[str, dict[str, float]], machine: str) -> str:
    """The ratios as a table of Markdown."""
    lines = [f"{machine}.", "", "| benchmark | the larger the better | ratio |", "|---|---|---|"]
    for benchmark, found in ratios.items():
        lines += [f"| `{benchmark}.py` | {name} | {value:.3g} |" for name, value in found.items()]
    return "\n".join(lines)


def with_table(page: str, text: str) -> str:
    """The page with the text between the two marks."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{README}: has no place for the table, between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def keep(ratios: dict[str, dict[str, float]]) -> None:
    """Write the ratios and the page's table of them."""
    KEPT.write_text(json.dumps(ratios, indent=1) + "\n", encoding="utf-8")
    machine = f"Python {platform.python_version()}, {platform.machine()}"
    page = README.read_text(encoding="utf-8")
    README.write_text(with_table(page, table(ratios, machine)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep what is measured")
    parser.add_argument("--only", action="append", choices=MEASURED)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    kept: dict[str, dict[str, float]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    sys.path.insert(0, str(HERE))
    lost: list[str] = []
    for name in options.only or MEASURED:
        found = measure(name, options.rounds)
        for key, value in found.items():
            before = kept.get(name, {}).get(key)
            was = "" if before is None else f"   (kept: {before:.3g})"
            print(f"{name:12}{key:64}{value:10.3g}{was}", flush=True)
        lost += fallen(kept.get(name, {}), found)
        if options.write:
            kept[name] = found
            keep(kept)
    if lost and not options.write:
        raise SystemExit("\n".join([f"{len(lost)} ratios fell by over {MOST_LOST:.0%}:", *lost]))


if __name__ == "__main__":
    main()
