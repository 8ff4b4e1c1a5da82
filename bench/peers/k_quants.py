"""llama.cpp's quantizer with an importance matrix, through the libraries that llama-cpp-python brings."""

import ctypes
import pathlib
import re

import gguf
import llama_cpp
import numpy as np

from llama_cpp_bench import silence

BLOCK = 256  # Columns of a K-quant's super-block.
FALLBACK = re.compile(r"warning: (\S+) .*required for type\s+(\w+)\)")


def importance_matrix(moments: dict[str, np.ndarray]):
    """llama.cpp's array of {name, values, size}, ended by a null name; it does not own the values."""
    entries = (llama_cpp.llama_model_imatrix_data * (len(moments) + 1))()
    for entry, (name, values) in zip(entries, moments.items()):
        assert values.dtype == np.float32 and values.flags.c_contiguous
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries


def quantize(source: pathlib.Path, target: pathlib.Path, kind: str, moments: dict[str, np.ndarray]) -> dict[str, str]:
    """Writes `target` as llama-quantize --imatrix does. Returns the tensors that fell back, because their columns do not
    divide by 256, to a type of blocks of 32, with the K-quant that they were to have had."""
    log: list[str] = []
    callback = llama_cpp.llama_log_callback(lambda level, text, data: log.append(text.decode(errors="replace")))
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.nthread = 2
    entries = importance_matrix(moments)
    parameters.imatrix = ctypes.cast(entries, type(parameters.imatrix))
    partial = target.with_name(target.name + ".partial")
    if llama_cpp.llama_model_quantize(bytes(source), bytes(partial), ctypes.byref(parameters)) != 0:
        raise SystemExit(f"llama_model_quantize failed: {target}\n{''.join(log)[-2000:]}")
    silence()
    partial.rename(target)
    return {name: kind.upper() for name, kind in FALLBACK.findall("".join(log))}


def tensor_bytes(path: pathlib.Path) -> int:
    """Bytes of a file's tensor data: all but the header, the tokenizer and the padding."""
    return sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors)


def dequantized(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Every tensor in f32, in numpy's order of dimensions."""
    return {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            for tensor in gguf.GGUFReader(path).tensors}


def ggml_library() -> ctypes.CDLL:
    """libggml-base, declared as far as used."""
    library = ctypes.CDLL(str(next((pathlib.Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                                            ctypes.c_int64, ctypes.c_void_p]
    return library


def across_rows(weight: np.ndarray, kind: str, moments: np.ndarray | None) -> tuple[np.ndarray, int]:
    """The weight rounded to a K-quant whose super-blocks run on over the ends of rows, and its bytes.

    Several rows laid end to end are one row for ggml, with their importance repeated, so that columns need not divide by 256.
    """
    type_ = getattr(gguf.GGMLQuantizationType, kind)
    rows, columns = weight.shape
    joined = int(np.lcm(columns, BLOCK)) // columns
    if rows % joined != 0:
        raise SystemExit(f"{rows} rows of {columns} columns do not fill blocks of {BLOCK}")
    flat = np.ascontiguousarray(weight.reshape(rows // joined, joined * columns), np.float32)
    block, size = gguf.GGML_QUANT_SIZES[type_]
    out = np.empty((flat.shape[0], flat.shape[1] // block * size), np.uint8)
    repeated = None if moments is None else np.ascontiguousarray(np.tile(moments, joined), np.float32)
    written = ggml_library().ggml_quantize_chunk(
        int(type_), flat.ctypes.data, out.ctypes.data, 0, flat.shape[0], flat.shape[1],
        None if repeated is None else repeated.ctypes.data)
    assert written == out.nbytes
    return gguf.quants.dequantize(out, type_).reshape(weight.shape), written
