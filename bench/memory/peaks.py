#!/usr/bin/env python3
"""Peak memory of profile, encode and eval by the number of blocks of one shape: is the line flat?

    peaks.py OPTIQ --folder /scratch --blocks 8,16,32,64 --max-memory 1GB

Makes each model, measures, removes it. Prints a Markdown table; --json FILE keeps the numbers. Linux.
"""
import argparse
import contextlib
import json
import pathlib
import shutil

import make_model
import measure

JOBS = ("encode", "mse", "fisher", "eval")


def commands(optiq: str, model: pathlib.Path, work: pathlib.Path, text: pathlib.Path, args) -> dict:
    limit = ["--max-memory", args.max_memory] if args.max_memory else []
    profile = [optiq, "profile", model, "--calibration", text, "--sequences", args.sequences, "--tokens", args.tokens,
               "--encoder", args.encoder, "--bits", args.bits, "--groups", "64", "--quiet", *limit]
    return {"encode": [optiq, "encode", model, work / "plan.json", work / "out", "--quiet", *limit],
            "mse": [*profile, "--estimator", "mse", "-o", work / "mse.json"],
            "fisher": [*profile, "--estimator", "fisher", "-o", work / "fisher.json"],
            "eval": [optiq, "eval", work / "out", "--reference", model, "--text", text, "--context", args.tokens, "--windows",
                     "4", "--compute", "bf16", "--quiet", *limit]}


def measure_blocks(args, blocks: int) -> dict:
    folder = args.folder / f"{args.shape}-{blocks}"
    model = make_model.write_model(folder / "model", args.shape, blocks, args.shard_bytes)
    text = make_model.write_text(folder / "text.txt")
    measure.write_sensitivity(model, folder / "sensitivity.json")
    measure.must_run([args.optiq, "plan", folder / "sensitivity.json", "--bpw", "4.5", "-o", folder / "plan.json"])
    found = {"model_bytes": sum(file.stat().st_size for file in model.glob("*.safetensors"))}
    for job, command in commands(args.optiq, model, folder, text, args).items():
        if job not in args.jobs:
            continue
        with measure.hard_limit(args.hard_limit) if args.hard_limit else contextlib.nullcontext() as enter:
            if args.hard_limit and enter is None:
                raise SystemExit("--hard-limit: no control group for memory can be made here")
            done = measure.run(command, preexec_fn=enter)
        found[job] = {"code": done.code, "seconds": round(done.seconds, 2), "peak": done.peak_bytes,
                      "anonymous": done.anonymous_bytes, "file": done.file_bytes}
        if done.code != 0:
            print(done.stderr)
    shutil.rmtree(folder)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optiq")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--shape", default="small", choices=make_model.SHAPES)
    parser.add_argument("--blocks", default="8,16,32")
    parser.add_argument("--shard-bytes", type=int, default=0)
    parser.add_argument("--max-memory")
    parser.add_argument("--hard-limit", type=int, help="bytes of a control group that each job runs in (root)")
    parser.add_argument("--sequences", default="8")
    parser.add_argument("--tokens", default="256")
    parser.add_argument("--encoder", default="rtn", help="of profiling")
    parser.add_argument("--bits", default="2,4", help="of profiling")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    args.jobs = args.jobs.split(",")
    results = {}
    print("| blocks | model MB | " + " | ".join(f"{job}: peak (anonymous, files) MB, s" for job in args.jobs) + " |")
    print("| --- " * (2 + len(args.jobs)) + "|")
    for blocks in map(int, args.blocks.split(",")):
        results[blocks] = found = measure_blocks(args, blocks)
        cells = [f"{found[job]['peak'] / 1e6:.0f} ({found[job]['anonymous'] / 1e6:.0f}, {found[job]['file'] / 1e6:.0f}), "
                 f"{found[job]['seconds']}" for job in args.jobs]
        print(f"| {blocks} | {found['model_bytes'] / 1e6:.0f} | " + " | ".join(cells) + " |", flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
