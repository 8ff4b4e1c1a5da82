"""Compares optiq with its peers on the CPU: processes in turn (A B A B), then one Markdown table of medians.

    python cpu_speed.py [--optiq BINARY MODEL]... [--llama MODEL.gguf]... [--openvino FOLDER]... \\
        [--rounds 3] [--threads 2] [--repeats 5] [--depths 0 4096] [--results FILE.json]

The first candidate named is the baseline of the ratios (optiq's, where there is any). Without candidates, all the
models of --shape in build/peers/models are run, by whatever of the three engines is there. Each round runs each
candidate once, in a process of its own, so that a drift of the machine's speed meets all alike. A cell is the median
over the rounds of each process's median, with the least and greatest single measurement. Each process's JSON object is
kept in --results.
"""

import argparse
import dataclasses
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import shapes

HERE = pathlib.Path(__file__).resolve().parent
PYTHONS = {engine: shapes.ROOT / "build" / "peers" / f"venv-{engine}" / "bin" / "python"
           for engine in ("llama", "openvino")}
SCRIPTS = {"llama": "llama_cpp_bench.py", "openvino": "openvino_bench.py"}
OPTIQ = shapes.ROOT / "build" / "release" / "bin" / "optiq"
LIMITS = {"read_bandwidth": "read bandwidth, GB/s", "int8_peak": "int8 peak, 10^9/s"}
ABSOLUTE = {"other CPUs busy", *LIMITS.values()}  # Facts of the machine: no ratios.


@dataclasses.dataclass
class Candidate:
    """One engine with one model, and its results so far, one a round."""

    label: str
    command: list[str]
    results: list[dict] = dataclasses.field(default_factory=list)

    def run(self) -> None:
        """Runs the process and keeps its JSON object, the last line of its output; a failure is reported, not fatal."""
        done = subprocess.run(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            print(f"{self.label} failed ({done.returncode}): {done.stderr.strip()[-2000:]}", file=sys.stderr)
            return
        self.results.append(json.loads(done.stdout[done.stdout.index("{"):]))


def options_of(arguments) -> list[str]:
    """The options that every engine's benchmark takes."""
    return ["--json", "--threads", str(arguments.threads), "--repeats", str(arguments.repeats),
            "--prefill", *map(str, arguments.prefill), "--depths", *map(str, arguments.depths)]


def optiq_candidate(binary: str, model: str, arguments) -> Candidate:
    """`optiq bench MODEL --json`, with the options given for it."""
    command = [binary, "bench", model, "--json", *arguments.optiq_options.split()]
    return Candidate(f"optiq {pathlib.Path(model).name}", command)


def peer_candidate(engine: str, model: str, arguments) -> Candidate:
    """A peer's benchmark in its own environment."""
    command = [str(PYTHONS[engine]), "-B", str(HERE / SCRIPTS[engine]), model, *options_of(arguments)]
    name = {"llama": "llama.cpp", "openvino": "OpenVINO"}[engine]
    short = pathlib.Path(model).name.removesuffix(".gguf").replace("openvino-", "")
    return Candidate(f"{name} {short}", command)


def named(arguments) -> list[Candidate]:
    """The candidates of the command line, optiq's first."""
    found = [optiq_candidate(binary, model, arguments) for binary, model in arguments.optiq]
    for engine in PYTHONS:
        found += [peer_candidate(engine, model, arguments) for model in getattr(arguments, engine)]
    return found


def discovered(arguments) -> list[Candidate]:
    """Every model of the shape that an engine here can run."""
    models, shape, found = shapes.MODELS, arguments.shape, []
    if OPTIQ.exists():
        folders = [path for path in sorted(models.glob(f"llama-{shape}-*")) if (path / "optiq.json").exists()
                   or "bit-g" in path.name or path.name.endswith("mixed")]
        found += [optiq_candidate(str(OPTIQ), str(path), arguments) for path in folders]
    for engine, pattern in (("llama", f"llama-{shape}-*.gguf"), ("openvino", f"llama-{shape}-openvino-*")):
        if PYTHONS[engine].exists():
            paths = [path for path in sorted(models.glob(pattern)) if path.suffix != ".partial"]
            found += [peer_candidate(engine, str(path), arguments) for path in paths]
    return found


def measured(result: dict) -> dict[str, dict]:
    """The figures of one result by row of the table; peaks as a summary of one sample, in MiB."""
    rows = {f"prefill of {row['tokens']}, tokens/s": row["tokens_per_second"] for row in result.get("prefill", [])}
    rows |= {f"decode at {row['depth']}, tokens/s": row["tokens_per_second"] for row in result.get("decode", [])}
    rows |= {f"{key.removesuffix('_seconds').replace('_', ' ')}, s": result[key]
             for key in ("load_seconds", "first_token_seconds") if result.get(key)}
    if result.get("peak_bytes"):
        mebibytes = result["peak_bytes"] / 2**20
        rows["peak memory, MiB"] = {"median": mebibytes, "min": mebibytes, "max": mebibytes}
    if "other_cpus" in result:
        rows["other CPUs busy"] = {key: result["other_cpus"] for key in ("median", "min", "max")}
    return rows | limits(result)


def limits(result: dict) -> dict[str, dict]:
    """The machine's limits that optiq measures beside, in 10^9 a second: plain numbers or summaries."""
    rows = {}
    for key, name in LIMITS.items():
        for value in [value for unit, value in result.get(key, {}).items() if unit.endswith("_per_second")]:
            parts = value if isinstance(value, dict) else {part: value for part in ("median", "min", "max")}
            rows[name] = {part: parts[part] / 1e9 for part in ("median", "min", "max")}
    return rows


def pooled(candidate: Candidate) -> dict[str, tuple[float, float, float]]:
    """Per row: the median of the rounds' medians, the least and the greatest of all."""
    rounds = [measured(result) for result in candidate.results]
    names = dict.fromkeys(name for figures in rounds for name in figures)
    pools = {name: [figures[name] for figures in rounds if name in figures] for name in names}
    return {name: (statistics.median(one["median"] for one in pool), min(one["min"] for one in pool),
                   max(one["max"] for one in pool)) for name, pool in pools.items()}


def number(value: float) -> str:
    """Three significant digits or more, never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def cell(value: tuple[float, float, float], baseline: tuple[float, float, float] | None) -> str:
    """Median (least–greatest), and the ratio to the baseline."""
    median, least, greatest = value
    text = f"{number(median)} ({number(least)}–{number(greatest)})"
    return f"{text} ×{median / baseline[0]:.2f}" if baseline and baseline[0] else text


def table(candidates: list[Candidate]) -> str:
    """One row a candidate, one column a figure; ratios are to the first candidate's figure."""
    pools = [pooled(candidate) for candidate in candidates]
    columns = list(dict.fromkeys(name for pool in pools for name in pool))
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for candidate, pool in zip(candidates, pools):
        baseline = {} if pool is pools[0] else {name: pools[0][name] for name in pools[0] if name not in ABSOLUTE}
        cells = [cell(pool[name], baseline.get(name)) if name in pool else "" for name in columns]
        lines.append(f"| {candidate.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def processor() -> str:
    """The processor's name."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def read_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optiq", nargs=2, action="append", default=[], metavar=("BINARY", "MODEL"))
    parser.add_argument("--optiq-options", default="", help="further options of `optiq bench`, in one string")
    parser.add_argument("--llama", action="append", default=[], metavar="MODEL.gguf")
    parser.add_argument("--openvino", action="append", default=[], metavar="FOLDER")
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), default="1b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prefill", type=int, nargs="*", default=[512])
    parser.add_argument("--depths", type=int, nargs="*", default=[0, 4096])
    parser.add_argument("--results", type=pathlib.Path, help="where to keep each process's JSON object")
    return parser.parse_args()


def main() -> None:
    """Runs the rounds and prints the table."""
    arguments = read_arguments()
    candidates = named(arguments) or discovered(arguments)
    for turn in range(arguments.rounds):
        for candidate in candidates:
            start = time.monotonic()
            candidate.run()
            print(f"round {turn + 1}: {candidate.label}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    done = [candidate for candidate in candidates if candidate.results]
    if arguments.results:
        arguments.results.write_text(json.dumps([dataclasses.asdict(candidate) for candidate in done], indent=1))
    if not done:
        raise SystemExit("nothing ran")
    print(f"{processor()}, {arguments.threads} threads, {arguments.rounds} rounds; ratios to {done[0].label}\n")
    print(table(done))


if __name__ == "__main__":
    main()
