"""Measures llama.cpp on the CPU through its C API: prefill, decode at depths, load, time to first token, peak memory.

    python llama_cpp_bench.py MODEL.gguf [--threads 2] [--flash-attn off|on|auto|both] [--json]

Batch and micro-batch are 512 tokens, the KV cache is f16, weights are mapped and repacked as llama.cpp does by
default. Tokens are fixed in advance, so no sampling counts. --flash-attn both measures both settings (prefill and
decode) and reports the one with the faster prefill and decode, with the other under "alternative".
"""

import ctypes

import llama_cpp
import numpy as np

import measure

BATCH = 512
FLASH = {"off": 0, "on": 1, "auto": -1}
KEEP_ALIVE = []


class Session:
    """A loaded model with one context, driven batch by batch."""

    def __init__(self, path: str, threads: int, context_tokens: int, flash: str):
        silence()
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.context = self.make_context(threads, context_tokens, flash)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.filled = 0

    def make_context(self, threads: int, context_tokens: int, flash: str):
        """A context of an f16 cache for `context_tokens` tokens."""
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = -(-context_tokens // 256) * 256
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_seq_max = 1
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.flash_attn_type = FLASH[flash]
        parameters.type_k = parameters.type_v = 1  # GGML_TYPE_F16
        parameters.no_perf = True
        context = llama_cpp.llama_init_from_model(self.model, parameters)
        if not context:
            raise SystemExit("llama.cpp cannot make a context")
        return context

    def evaluate(self, tokens: list[int]) -> None:
        """Appends the tokens to the cache, 512 at a time; the logits are the last token's only."""
        for start in range(0, len(tokens), BATCH):
            part = tokens[start:start + BATCH]
            for index, token in enumerate(part):
                self.batch.token[index] = token
                self.batch.pos[index] = self.filled + index
                self.batch.n_seq_id[index] = 1
                self.batch.seq_id[index][0] = 0
                self.batch.logits[index] = start + index + 1 == len(tokens)
            self.batch.n_tokens = len(part)
            if llama_cpp.llama_decode(self.context, self.batch) != 0:
                raise SystemExit("llama_decode failed")
            self.filled += len(part)
        llama_cpp.llama_synchronize(self.context)

    def decode(self, tokens: list[int]) -> None:
        """Appends the tokens one by one, as generation does."""
        for token in tokens:
            self.evaluate([token])

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens."""
        llama_cpp.llama_memory_seq_rm(self.memory, 0, length, -1)
        self.filled = length

    def logits(self) -> np.ndarray:
        """The logits of the last token evaluated."""
        pointer = llama_cpp.llama_get_logits_ith(self.context, -1)
        count = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        return np.ctypeslib.as_array(pointer, (count,))


def silence() -> None:
    """Drops llama.cpp's log."""
    callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
    KEEP_ALIVE.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))


def prefill_rate(session: Session, length: int, repeats: int) -> dict:
    """Prompt tokens a second from an empty cache, after one run to warm up."""
    def once() -> None:
        session.truncate(0)
        session.evaluate(tokens)

    tokens = measure.tokens(length, 2)
    once()
    return measure.summary([length / measure.seconds(once) for _ in range(repeats)])


def decode_rate(session: Session, depth: int, count: int, repeats: int) -> dict:
    """Decoded tokens a second after `depth` tokens; each repetition starts at that depth again."""
    def once() -> float:
        session.truncate(depth)
        return measure.seconds(lambda: session.decode(tokens))

    tokens = measure.tokens(count, 3)
    session.truncate(0)
    session.evaluate(measure.tokens(depth, 4))
    session.decode(tokens[:4])
    return measure.summary([count / once() for _ in range(repeats)])


def context_tokens(options) -> int:
    """The cache that the longest measurement needs."""
    return max([measure.FIRST_PROMPT, *options.prefill, *(depth + options.decode_tokens for depth in options.depths)])


def rates(options, flash: str) -> dict:
    """Prefill and decode with one setting of flash attention; checks that the logits are finite."""
    session = Session(options.model, options.threads, context_tokens(options), flash)
    result = {
        "settings": {"flash_attn": flash, "kv_cache": "f16", "batch": BATCH},
        "prefill": [{"tokens": length, "tokens_per_second": prefill_rate(session, length, options.repeats)}
                    for length in options.prefill],
        "decode": [{"depth": depth, "tokens": options.decode_tokens, "tokens_per_second":
                    decode_rate(session, depth, options.decode_tokens, options.repeats)} for depth in options.depths],
    }
    if session.filled and not np.isfinite(session.logits()).all():
        raise SystemExit("logits are not finite")
    llama_cpp.llama_free(session.context)
    llama_cpp.llama_model_free(session.model)
    return result


def speed(result: dict) -> float:
    """The product of all rates of a result, to choose the faster setting by."""
    medians = [row["tokens_per_second"]["median"] for row in result["prefill"] + result["decode"]]
    return float(np.prod(medians))


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = measure.parser(__doc__)
    parser.add_argument("--flash-attn", choices=[*FLASH, "both"], default="on")
    options = parser.parse_args()
    flashes = ["off", "on"] if options.flash_attn == "both" else [options.flash_attn]
    if options.first_token:
        load = lambda: Session(options.model, options.threads, BATCH, flashes[-1])
        measure.first_token(load, lambda session, tokens: (session.evaluate(tokens), session.logits()))
        return
    bystanders = measure.Bystanders()
    result = {"engine": "llama.cpp", "version": llama_cpp.__version__, "model": options.model,
              "threads": options.threads, "base_bytes": measure.status_bytes("VmRSS")}
    tried = sorted((rates(options, flash) for flash in flashes), key=speed, reverse=True)
    result |= tried[0] | {"peak_bytes": measure.status_bytes("VmHWM")}
    if len(tried) > 1:
        result["alternative"] = tried[1]
    result |= measure.first_tokens(options.repeats)
    measure.show(result | {"other_cpus": bystanders.busy_cpus()}, options.json)


if __name__ == "__main__":
    main()
