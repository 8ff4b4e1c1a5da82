#!/usr/bin/env python3
"""Prints the table of allocation.sh: ratios of KL with paired standard errors over windows. usage: summary.py OUT_FOLDER"""
import json
import math
import pathlib
import sys


def load(folder: pathlib.Path, name: str) -> dict:
    result = json.loads((folder / f"{name}.eval.json").read_text())
    result.update({key: value for key, value in json.loads((folder / f"{name}.json").read_text()).items()
                   if key in ("bytes", "bits_per_weight", "predicted_kl", "predicted_kl_stderr")})
    return result


def ratio(ours: list[float], base: list[float]) -> tuple[float, float]:
    """Ratio of means, and its standard error by the delta method over paired windows."""
    n = len(ours)
    quotient = sum(ours) / sum(base)
    residuals = [a - quotient * b for a, b in zip(ours, base)]
    variance = sum(r * r for r in residuals) / (n - 1) / n
    return quotient, math.sqrt(variance) / (sum(base) / n)


def main(folder: pathlib.Path) -> None:
    print("| plan | bytes | bits/weight | PPL | KL (nats/token) | KL / uniform | predicted KL / measured |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for bits in (3, 4, 5):
        base = load(folder, f"uniform{bits}")
        for name, label in ((f"uniform{bits}", f"uniform {bits}x64, RTN"), (f"rtn{bits}", "ours, rtn"),
                            (f"range{bits}", "ours, default")):
            row = load(folder, name)
            quotient, error = ratio(row["window_kl"], base["window_kl"])
            versus = "1" if row is base or name.startswith("uniform") else f"{quotient:.3f} ± {error:.3f}"
            predicted = "" if name.startswith("uniform") else f"{row['predicted_kl'] / row['kl_mean']:.2f}"
            print(f"| {label} | {row['bytes']} | {row['bits_per_weight']:.3f} | {row['ppl']:.3f} ± {row['ppl_stderr']:.3f} "
                  f"| {row['kl_mean']:.5f} ± {row['kl_stderr']:.5f} | {versus} | {predicted} |")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
