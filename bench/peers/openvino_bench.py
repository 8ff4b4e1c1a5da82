"""Measures OpenVINO on the CPU: prefill, decode at depths, load, time to first token, peak memory.

    python openvino_bench.py FOLDER [--threads 2] [--kv-cache f16|u8] [--json]

FOLDER holds openvino_model.xml, with its KV cache as state (as optimum-intel exports it). The model is driven
directly. As OpenVINO GenAI does, it is first cut so that only the last token's logits are computed. Other settings
are OpenVINO's own for latency (on CPUs with bf16 dot products it computes in bf16). Tokens are fixed in advance, so no
sampling counts. A prompt is one inference. The state cannot be shortened, so at a depth above 0 each repetition goes on
where the last one stopped.
"""

import pathlib

import numpy as np
import openvino

import measure


def keep_last_logits(model: openvino.Model) -> None:
    """Inserts a slice of the last token before the output layer."""
    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    values = [np.array([number], np.int64) for number in (-1, np.iinfo(np.int64).max, 1, 1)]
    last = openvino.opset13.slice(node.input_value(0), *values)
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


class Session:
    """A compiled model with one sequence in its state."""

    def __init__(self, folder: str, threads: int, kv_cache: str):
        core = openvino.Core()
        model = core.read_model(pathlib.Path(folder) / "openvino_model.xml")
        keep_last_logits(model)
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "KV_CACHE_PRECISION": kv_cache}
        self.compiled = core.compile_model(model, "CPU", settings)
        self.request = self.compiled.create_infer_request()
        self.inputs = {port.get_any_name() for port in self.compiled.inputs}
        self.filled = 0

    def reset(self) -> None:
        """Empties the KV cache."""
        self.request.reset_state()
        self.filled = 0

    def evaluate(self, tokens: list[int]) -> None:
        """Appends the tokens in one inference; the logits are the last token's only."""
        end = self.filled + len(tokens)
        feed = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(self.filled, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self.request.infer({name: value for name, value in feed.items() if name in self.inputs}, share_inputs=True)
        self.filled = end

    def decode(self, tokens: list[int]) -> None:
        """Appends the tokens one by one, as generation does."""
        for token in tokens:
            self.evaluate([token])

    def logits(self) -> np.ndarray:
        """The logits of the last token evaluated."""
        return self.request.get_tensor("logits").data.reshape(-1)

    def settings(self) -> dict:
        """What OpenVINO chose."""
        names = ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE",
                 "INFERENCE_NUM_THREADS")
        return {name: str(self.compiled.get_property(name)) for name in names}


def prefill_rate(session: Session, length: int, repeats: int) -> dict:
    """Prompt tokens a second from an empty cache, after one run to warm up."""
    def once() -> float:
        session.reset()
        return measure.seconds(lambda: session.evaluate(tokens))

    tokens = measure.tokens(length, 2)
    once()
    return measure.summary([length / once() for _ in range(repeats)])


def decode_rate(session: Session, depth: int, count: int, repeats: int) -> dict:
    """Decoded tokens a second; from an empty cache each time at depth 0, else going on from `depth` tokens."""
    def once() -> float:
        if depth == 0:
            session.reset()
        return measure.seconds(lambda: session.decode(tokens))

    tokens = measure.tokens(count, 3)
    session.reset()
    fill = measure.tokens(depth, 4)
    for start in range(0, depth, 512):
        session.evaluate(fill[start:start + 512])
    session.decode(tokens[:4])
    return measure.summary([count / once() for _ in range(repeats)])


def rates(session: Session, options) -> dict:
    """Prefill and decode; checks that the logits are finite."""
    result = {
        "settings": session.settings(),
        "prefill": [{"tokens": length, "tokens_per_second": prefill_rate(session, length, options.repeats)}
                    for length in options.prefill],
        "decode": [{"depth": depth, "tokens": options.decode_tokens, "tokens_per_second":
                    decode_rate(session, depth, options.decode_tokens, options.repeats)} for depth in options.depths],
    }
    if session.filled and not np.isfinite(session.logits()).all():
        raise SystemExit("logits are not finite")
    return result


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = measure.parser(__doc__)
    parser.add_argument("--kv-cache", choices=["f16", "bf16", "u8"], default="f16")
    options = parser.parse_args()
    load = lambda: Session(options.model, options.threads, options.kv_cache)
    if options.first_token:
        measure.first_token(load, lambda session, tokens: (session.evaluate(tokens), session.logits()))
        return
    bystanders = measure.Bystanders()
    result = {"engine": "OpenVINO", "version": openvino.__version__, "model": options.model,
              "threads": options.threads, "base_bytes": measure.status_bytes("VmRSS")}
    result |= rates(load(), options)
    result["peak_bytes"] = measure.status_bytes("VmHWM")
    result |= measure.first_tokens(options.repeats)
    measure.show(result | {"other_cpus": bystanders.busy_cpus()}, options.json)


if __name__ == "__main__":
    main()
