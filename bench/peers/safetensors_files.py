"""Reads safetensors files with numpy alone; bf16 becomes f32."""

import json
import pathlib
import struct

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I32": np.int32, "U32": np.uint32}


def read_tensors(path: pathlib.Path, wanted=lambda name: True) -> dict[str, np.ndarray]:
    """The wanted tensors of one file by name; those in f32 and integers are views of the mapped file."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r", 8 + length)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or not wanted(name):
            continue
        first, last = entry["data_offsets"]
        values = data[first:last].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = values
    return tensors


def read_folder(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint folder."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(read_tensors(path))
    return tensors
