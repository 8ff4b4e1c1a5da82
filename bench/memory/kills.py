#!/usr/bin/env python3
"""kill -9 at random moments: is what comes out in the end the same to the byte?

    kills.py OPTIQ --folder /scratch --kills 20                # encode, then profile by mse and by fisher

Each round kills the command at a random moment of the time that it takes when nobody kills it, runs the same command again and
compares the output with that of an uninterrupted run. Says how long the second run took, as a share of a whole one: 1 means that
it began anew. Standard library only.
"""
import argparse
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import time

import make_model
import measure


def content(path: pathlib.Path) -> dict:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files}


def remove(path: pathlib.Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def kill_at(command: list, seconds: float) -> bool:
    """Whether it was killed before it ended."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return process.returncode == -signal.SIGKILL


def rounds(name: str, command: list, out: pathlib.Path, kills: int, source: random.Random) -> None:
    whole = measure.must_run(command)
    expected, killed, same, shares = content(out), 0, 0, []
    while killed < kills:
        remove(out)
        moment = source.uniform(0, whole.seconds)
        if not kill_at(command, moment):
            continue
        killed += 1
        again = measure.must_run(command)
        same += content(out) == expected
        shares.append(again.seconds / whole.seconds)
        print(f"{name}: killed after {moment:.1f} s of {whole.seconds:.1f}, then {again.seconds:.1f} s", flush=True)
    print(f"{name}: {killed} kills, {same} results identical to the byte; the run after a kill took "
          f"{statistics.median(shares):.2f} of a whole one (median)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optiq")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--shape", default="small", choices=make_model.SHAPES)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--shard-bytes", type=int, default=50_000_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", default="encode,mse,fisher")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    folder = args.folder / "kills"
    model = make_model.write_model(folder / "model", args.shape, args.blocks, args.shard_bytes)
    text = make_model.write_text(folder / "text.txt")
    measure.write_sensitivity(model, folder / "sensitivity.json")
    measure.must_run([args.optiq, "plan", folder / "sensitivity.json", "--bpw", "4.5", "-o", folder / "plan.json"])
    source = random.Random(args.seed)
    print(f"seed {args.seed}")
    jobs = {"encode": ([args.optiq, "encode", model, folder / "plan.json", folder / "out", "--quiet"], folder / "out"),
            **{estimator: ([args.optiq, "profile", model, "-o", folder / f"{estimator}.json", "--estimator", estimator,
                            "--encoder", "rtn", "--calibration", text, "--sequences", "2", "--tokens", "64", "--bits", "2,4",
                            "--groups", "64", "--quiet"], folder / f"{estimator}.json") for estimator in ("mse", "fisher")}}
    for job in args.jobs.split(","):
        rounds(job, *jobs[job], args.kills, source)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
