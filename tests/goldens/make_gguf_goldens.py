#!/usr/bin/env python3
"""Writes gguf_golden.gguf: for every block type T a tensor "T.blocks" of that type and "T.expected" (F32), what the
Python package `gguf` reads it as; and one metadata entry of every value type. Made with gguf 0.19.0, numpy 2.4.6.
usage: make_gguf_goldens.py OUT.gguf"""
import sys

import gguf
import numpy as np

ROWS, COLUMNS = 2, 512
QUANTIZED_BY_PACKAGE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"]
# The package cannot make these: random bytes are valid blocks but for the f16 fields, whose byte offsets follow.
RANDOM_BLOCKS = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def random_blocks(rng: np.random.Generator, name: str) -> np.ndarray:
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (ROWS * COLUMNS // elements, size), dtype=np.uint8)
    for offset in RANDOM_BLOCKS[name]:
        # Normal, negative and subnormal halves.
        scales = rng.normal(0, 0.05, len(blocks)).astype(np.float16)
        scales[0] = np.float16(-3e-7)
        blocks[:, offset:offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def add_metadata(writer: gguf.GGUFWriter) -> None:
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_float32("test.f32", 1e-5)
    writer.add_uint64("test.u64", 2**63 - 1)
    writer.add_int64("test.i64", -2**63)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.boolean", True)
    writer.add_string("test.string", "héllo\n")
    writer.add_array("test.strings", ["a", "", "ĠĊ"])
    writer.add_array("test.integers", [1, -2, 3])
    writer.add_array("test.numbers", [0.5, -0.1])


def main() -> None:
    rng = np.random.default_rng(20240917)
    writer = gguf.GGUFWriter(sys.argv[1], "golden")
    add_metadata(writer)
    for name in QUANTIZED_BY_PACKAGE + list(RANDOM_BLOCKS):
        kind = gguf.GGMLQuantizationType[name]
        if name in RANDOM_BLOCKS:
            blocks = random_blocks(rng, name)
        else:
            blocks = gguf.quants.quantize(rng.normal(0, 0.02, (ROWS, COLUMNS)).astype(np.float32), kind)
        expected = gguf.quants.dequantize(blocks, kind).reshape(ROWS, COLUMNS).astype(np.float32)
        writer.add_tensor(f"{name}.blocks", blocks.view(np.uint8), raw_dtype=kind)
        writer.add_tensor(f"{name}.expected", expected)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
