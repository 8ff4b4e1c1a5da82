"""Logits at every position by llama.cpp on the CPU, as its own tools compute them."""

import ctypes
import pathlib

import llama_cpp
import numpy as np

from llama_cpp_bench import silence


class Logits:
    """A loaded model that takes one window at a time, into an empty cache (f16, llama.cpp's default)."""

    def __init__(self, path: pathlib.Path, context: int, threads: int):
        silence()
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(bytes(path), parameters)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = -(-context // 256) * 256
        options.n_seq_max = 1
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise SystemExit("llama.cpp cannot make a context")
        self.batch = llama_cpp.llama_batch_init(options.n_batch, 0, 1)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def window(self, tokens: list[int]) -> np.ndarray:
        """f32 [tokens, vocabulary]; valid until the next call."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        for index, token in enumerate(tokens):
            self.batch.token[index] = token
            self.batch.pos[index] = index
            self.batch.n_seq_id[index] = 1
            self.batch.seq_id[index][0] = 0
            self.batch.logits[index] = 1
        self.batch.n_tokens = len(tokens)
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)
        pointer = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (len(tokens), self.vocabulary))

    def close(self) -> None:
        """Gives its memory back."""
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)
