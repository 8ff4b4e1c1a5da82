#!/usr/bin/env python3
"""Fails where an #include points to a layer that cmake/layers.txt does not allow. usage: check_layers.py ROOT"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*["<]optiq/([a-z]+)/', re.MULTILINE)


def allowed_layers(root: pathlib.Path) -> dict[str, set[str]]:
    table = {}
    for line in (root / "cmake/layers.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, others = line.split(":")
            table[name] = {name, *others.split()}
    return table


def violations(root: pathlib.Path) -> list[str]:
    table = allowed_layers(root)
    found = []
    for top in ("include/optiq", "src"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in {".h", ".cpp", ".inc", ".cu", ".cuh"}:
                continue
            layer = path.relative_to(root / top).parts[0]
            if layer not in table:
                found.append(f"{path}: \"{layer}\" is no layer of cmake/layers.txt")
                continue
            for other in INCLUDE.findall(path.read_text()):
                if other not in table[layer]:
                    found.append(f"{path}: layer {layer} must not include layer {other}")
    return found


if __name__ == "__main__":
    problems = violations(pathlib.Path(sys.argv[1]))
    print("\n".join(problems) or "layers: every include points to an allowed layer")
    sys.exit(1 if problems else 0)
