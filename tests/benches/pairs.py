#!/usr/bin/env python3
"""Two versions of Forebay in one benchmark, by turns, and the ratio of each figure, pair by pair.

    git worktree add --detach ../before COMMIT
    (cd ../before && cargo build --release --benches --bins); cargo build --release --benches --bins
    tests/benches/pairs.py ../before drain --pairs 5 -- --single-ids 0

Each run is the benchmark with `--repeats 1 --json`; which version goes first alternates. The lines of JSON are kept in
target/pairs, so that runs of several calls count together (`--pairs 0` prints what is there); remove the file to begin anew.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parents[2]
# Figures of which more is better; of all others that are compared, less is.
COMPARED = ("acks_per_s", "rows_per_s", "p50_ms", "p99_ms", "server_us", "mariadb_us", "us_per_row",
            "forebay_us_per_row", "mariadb_us_per_row", "ready_s", "memory_mib", "written_per_byte", "fill_per_s")


def executable(checkout: pathlib.Path, bench: str) -> pathlib.Path:
    """The newest build of a benchmark."""
    found = [path for path in (checkout / "target/release/deps").glob(f"{bench}-*") if path.suffix == ""]
    if not found:
        sys.exit(f"{checkout} has no {bench}: run `cargo build --release --benches --bins` there")
    return max(found, key=lambda path: path.stat().st_mtime)


def run(checkout: pathlib.Path, bench: str, options: list[str]) -> dict:
    """One run of the benchmark, as its line of JSON."""
    command = [executable(checkout, bench), "--repeats", "1", "--json", *options]
    output = subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def figures(value, name: str = "") -> dict[str, float]:
    """All numbers of a run, by where they are."""
    if isinstance(value, dict):
        label = "/".join(str(value[key]) for key in ("ids", "reports_per_id", "connections", "in_flight") if key in value)
        parts = [(f"{name} {key}" if not label else f"{name} {label} {key}", part) for key, part in value.items()]
    elif isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        parts = [(f"{name} {value[0]}", value[1])]
    elif isinstance(value, list):
        parts = [(name if len(value) == 1 or isinstance(part, dict) and "ids" in part else f"{name} {place}", part)
                 for place, part in enumerate(value)]
    else:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return {" ".join(name.split()): float(value)} if number else {}
    return {key: number for part, inner in parts for key, number in figures(inner, part).items()}


def compared(name: str) -> bool:
    return any(part in COMPARED for part in name.split()) and "plain" not in name and "insert" not in name


def main() -> None:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=pathlib.Path, help="checkout of the version before, built")
    parser.add_argument("bench", help="drain, peers, whole_job, many_ids …")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--name", help="of the file of results; otherwise the benchmark's")
    given = parser.parse_args(sys.argv[1:split])
    options = sys.argv[split + 1:]
    kept = HERE / "target/pairs" / f"{given.name or given.bench}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    for pair in range(given.pairs):
        sides = {"before": given.before, "here": HERE}
        order = list(sides) if pair % 2 == 0 else list(sides)[::-1]
        runs = {side: figures(run(sides[side], given.bench, options)) for side in order}
        with kept.open("a") as file:
            file.write(json.dumps({side: runs[side] for side in sides}) + "\n")
    pairs = [json.loads(line) for line in kept.read_text().splitlines()]
    print(f"| {given.bench}, {len(pairs)} pairs | before | here | ratio, the least and the greatest |\n|---|---|---|---|")
    for name in pairs[0]["before"]:
        both = [pair for pair in pairs if name in pair["before"] and name in pair["here"]]
        ratios = [pair["here"][name] / pair["before"][name] for pair in both if pair["before"][name]]
        if compared(name) and ratios:
            before, here = (statistics.median(pair[side][name] for pair in both) for side in ("before", "here"))
            print(f"| {name} | {before:,.2f} | {here:,.2f} | {statistics.median(ratios):.3f} "
                  f"({min(ratios):.3f} to {max(ratios):.3f}) |")


if __name__ == "__main__":
    main()
