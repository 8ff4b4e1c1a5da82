"""What the two peers' benchmarks share: statistics, peak memory, the command line, and the shape of the JSON object.

The object has the keys of `optiq bench MODEL --json`:
    {"engine", "version", "model", "threads", "settings": {...},
     "prefill": [{"tokens", "tokens_per_second": S}], "decode": [{"depth", "tokens", "tokens_per_second": S}],
     "load_seconds": S, "first_token_seconds": S, "peak_bytes": N, "first_token_peak_bytes": N,
     "base_bytes": N, "other_cpus": X}
where S = {"median", "min", "max", "samples"}. base_bytes is the resident size of Python and the peer's library before
the model is loaded; it is part of the two peaks. other_cpus is how many CPUs other processes kept busy meanwhile, on
average: near 0 on a quiet machine. The peers' threads wait for each other by spinning, so that decode on a machine
with as little as one busy process more is several times slower: such figures say nothing.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time

VOCABULARY = 128000  # Ordinary tokens only.
FIRST_PROMPT = 16


def summary(samples: list[float]) -> dict:
    """The median and the spread of repeated measurements."""
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples), "samples": samples}


def status_bytes(key: str) -> int:
    """VmHWM (the largest resident size of this process so far) or VmRSS (the present one), mapped files included."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key + ":"))
    return 1024 * int(line.split()[1])


def tokens(count: int, seed: int) -> list[int]:
    """`count` random tokens, the same for the same seed."""
    return random.Random(seed).choices(range(VOCABULARY), k=count)


def seconds(action) -> float:
    """How long one call of `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def cpu_seconds() -> tuple[float, float]:
    """CPU time so far of the whole machine, and of this process with its finished children."""
    with open("/proc/stat") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


class Bystanders:
    """Counts the CPUs that other processes keep busy."""

    def __init__(self):
        self.start = time.monotonic()
        self.machine, self.own = cpu_seconds()

    def busy_cpus(self) -> float:
        """The average since construction."""
        machine, own = cpu_seconds()
        return max(0.0, (machine - self.machine) - (own - self.own)) / (time.monotonic() - self.start)


def parser(description: str) -> argparse.ArgumentParser:
    """The options common to the peers' benchmarks."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--prefill", type=int, nargs="*", default=[512], help="prompt lengths in tokens")
    made.add_argument("--depths", type=int, nargs="*", default=[0, 4096], help="tokens in the KV cache before decode")
    made.add_argument("--decode-tokens", type=int, default=32, help="decoded in each repetition")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--json", action="store_true", help="print one JSON object instead of lines of text")
    made.add_argument("--first-token", action="store_true", help=argparse.SUPPRESS)
    return made


def first_token(load, prompt) -> None:
    """A fresh process's whole task: times load() and then prompt(session, tokens), and prints one JSON object."""
    start = time.perf_counter()
    session = load()
    loaded = time.perf_counter() - start
    prompt(session, tokens(FIRST_PROMPT, 1))
    print(json.dumps({"load": loaded, "first": time.perf_counter() - start, "peak": status_bytes("VmHWM")}))


def first_tokens(repeats: int) -> dict:
    """Runs this very command --first-token in `repeats` fresh processes, after one more that warms the page cache."""
    command = [sys.executable, *sys.argv, "--first-token"]
    runs = []
    for _ in range(repeats + 1):
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs.append(json.loads(output.splitlines()[-1]))
    warm = runs[1:]
    return {"load_seconds": summary([run["load"] for run in warm]),
            "first_token_seconds": summary([run["first"] for run in warm]),
            "first_token_peak_bytes": max(run["peak"] for run in warm)}


def text_lines(result: dict) -> list[str]:
    """The result as lines for people: median (min to max)."""
    def spread(values: dict, unit: str) -> str:
        return f"{values['median']:.4g} ({values['min']:.4g} to {values['max']:.4g}) {unit}"

    lines = [f"{result['engine']} {result['version']}, {result['threads']} threads, {result['model']}"]
    lines += [f"settings      {result['settings']}"]
    lines += [f"prefill {row['tokens']:5} {spread(row['tokens_per_second'], 'tokens/s')}" for row in result["prefill"]]
    lines += [f"decode @{row['depth']:5} {spread(row['tokens_per_second'], 'tokens/s')}" for row in result["decode"]]
    lines += [f"load          {spread(result['load_seconds'], 's')}",
              f"first token   {spread(result['first_token_seconds'], 's')}",
              f"peak          {result['peak_bytes'] / 2**20:.0f} MiB",
              f"other CPUs    {result['other_cpus']:.2f}"]
    return lines


def show(result: dict, as_json: bool) -> None:
    """Prints the result."""
    print(json.dumps(result) if as_json else "\n".join(text_lines(result)))
