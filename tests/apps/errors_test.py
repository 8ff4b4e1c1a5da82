"""Every way a call can go wrong ends with its exit code, one message that names the culprit, and no debris."""
import json
import resource
import struct
import subprocess
import unittest

from cli_support import (BAD_INPUT, BINARY, CALIBRATION, IMPOSSIBLE_BUDGET, OUT_OF_RESOURCES, USAGE, CliTest,
                         read_safetensors, write_latency, write_model, write_safetensors)

SOME_TENSOR = "model.layers.1.mlp.up_proj.weight"


def limit_files_to(count: int):
    """Files may not grow beyond `count` bytes, as on a disk that has no more."""
    def apply():
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))
    return apply


class Usage(CliTest):
    def test_command_lines_that_make_no_sense(self):
        for mentions, arguments in (
                ("subcommand", ()),
                ("frobnicate", ("frobnicate",)),
                ("--frobnicate", ("info", self.model, "--frobnicate")),
                ("model", ("info",)),
                ("extra", ("info", self.model, "extra")),
                ("--text", ("eval", self.model)),
                ("--estimator", ("profile", self.model, "--estimator", "guess")),
                ("--bits", ("profile", self.model, "--bits", "7")),
                ("sequences", ("profile", self.model, "--sequences", "0")),
                ("tokens", ("profile", self.model, "--tokens", "-1")),
                ("context", ("eval", self.model, "--text", self.text, "--context", "1")),
                ("--windows", ("eval", self.model, "--text", self.text, "--windows", "-1")),
                ("--max-tokens", ("run", self.model, "hi", "--max-tokens", "-1")),
                ("temperature", ("run", self.model, "hi", "--temperature", "-1")),
                ("top-p", ("run", self.model, "hi", "--top-p", "7")),
                ("top-k", ("run", self.model, "hi", "--top-k", "-1")),
                ("repetition", ("run", self.model, "hi", "--repetition-penalty", "0"))):
            with self.subTest(arguments=arguments):
                self.refuse(USAGE, mentions, *arguments)

    def test_budgets_that_make_no_sense(self):
        profile = self.profile()
        for mentions, budget in (
                ("--bpw", ()),
                ("--size", ("--bpw", "4", "--size", "1MB")),
                ("4XB", ("--size", "4XB")), ("-3", ("--size=-3",)), ("0", ("--size", "0")),
                ("1e30GB", ("--size", "1e30GB")), ("\"\"", ("--size", "")), ("\"\"", ("--memory", "")),
                ("lots", ("--memory", "lots")), ("context", ("--memory", "1GB", "--context", "-1")),
                ("-1", ("--bpw=-1",)), ("nan", ("--bpw", "nan")), ("99", ("--bpw", "99")), ("four", ("--bpw", "four")),
                ("140%", ("--reduce", "140%")), ("0%", ("--reduce", "0%")),
                ("nonsense", ("--bpw", "5", "--pin", "nonsense")), ("7x64", ("--bpw", "5", "--pin", "*=7x64"))):
            with self.subTest(budget=budget):
                self.refuse(USAGE, mentions, "plan", profile, *budget)
        for mentions, limit in (
                ("--latency", ("--tokens-per-second", "9")),
                ("--tokens-per-second", ("--latency", "latency.json")),
                ("positive", ("--tokens-per-second", "0", "--latency", "latency.json")),
                ("positive", ("--tokens-per-second=-3", "--latency", "latency.json")),
                ("fast", ("--tokens-per-second", "fast", "--latency", "latency.json"))):
            with self.subTest(limit=limit):
                self.refuse(USAGE, mentions, "plan", profile, "--bpw", "6", *limit)
                self.refuse(USAGE, mentions, "quantize", self.model, "out", "--bpw", "6", "--sensitivity", profile,
                            *limit)
        self.refuse(USAGE, "7x64", "uniform", profile, "7x64")
        self.refuse(USAGE, "4x128", "uniform", profile, "4x128")

    def test_messages_go_to_standard_error(self):
        done = self.run_optiq("info", self.model, "--frobnicate")
        self.assertEqual((done.returncode, done.stdout), (USAGE, ""))
        self.assertIn("--frobnicate", done.stderr)

    def test_help_and_version(self):
        for arguments in (["--help"], ["--version"], ["plan", "--help"]):
            done = self.run_optiq(*arguments)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertTrue(done.stdout.strip())


class ImpossibleBudget(CliTest):
    def test_the_message_names_the_smallest_that_can_be_met(self):
        profile = self.profile()
        message = self.refuse(IMPOSSIBLE_BUDGET, "smallest possible", "plan", profile, "--bpw", "1")
        smallest = int(message.split("takes ")[1].split(" bytes")[0])
        self.assertEqual(self.succeed("plan", profile, "--size", smallest)["bytes"], smallest)
        (self.folder / "plan.json").unlink()
        self.refuse(IMPOSSIBLE_BUDGET, str(smallest), "plan", profile, "--size", smallest - 1)
        self.refuse(IMPOSSIBLE_BUDGET, str(smallest), "plan", profile, "--reduce", "99%")

    def test_memory(self):
        profile = self.profile()
        message = self.refuse(IMPOSSIBLE_BUDGET, "smallest possible", "plan", profile, "--memory", "10kB",
                              "--context", "64")
        smallest = int(message.split("takes ")[1].split(" bytes")[0])
        memory = self.succeed("plan", profile, "--memory", smallest, "--context", "64")["memory"]
        self.assertEqual(memory["total_bytes"], smallest)
        (self.folder / "plan.json").unlink()
        self.refuse(IMPOSSIBLE_BUDGET, str(smallest), "plan", profile, "--memory", smallest - 1, "--context", "64")

    def test_time_of_a_token(self):
        profile = self.profile()
        latency = write_latency(self.folder / "latency.json", profile)
        limit = ("plan", profile, "--bpw", "6", "--latency", latency, "--tokens-per-second")
        message = self.refuse(IMPOSSIBLE_BUDGET, "fastest possible", *limit, "1e9")
        most = message.split("makes ")[1].split(" tokens")[0]
        found = self.succeed(*limit, most)
        self.assertGreaterEqual(found["latency"]["tokens_per_second"], float(most) * (1 - 1e-9))

    def test_quantize(self):
        done = self.run_optiq("quantize", self.model, "out", "--size", "1kB", "--calibration", self.text, *CALIBRATION)
        self.assertEqual(done.returncode, IMPOSSIBLE_BUDGET, done.stderr)
        self.assertIn("smallest possible", done.stderr)
        self.assertFalse((self.folder / "out").exists())


class BadModel(CliTest):
    """Each verb that opens a model refuses a bad one, naming the file and the tensor."""

    def setUp(self):
        super().setUp()
        self.weights = self.model / "model.safetensors"

    def refuse_model(self, *mentions):
        self.refuse(BAD_INPUT, mentions, "info", self.model)
        self.refuse(BAD_INPUT, mentions, "profile", self.model, "-o", "s.json", "--calibration", self.text, *CALIBRATION)
        self.refuse(BAD_INPUT, mentions, "quantize", self.model, "out", "--bpw", "6", "--calibration", self.text,
                    *CALIBRATION)

    def change_config(self, **changes):
        config = json.loads((self.model / "config.json").read_text()) | changes
        (self.model / "config.json").write_text(json.dumps(config))

    def test_no_folder(self):
        self.model = self.folder / "nowhere"
        self.refuse_model("nowhere")

    def test_no_weights(self):
        self.weights.unlink()
        self.refuse_model("model.safetensors")

    def test_truncated_anywhere(self):
        content = self.weights.read_bytes()
        (header,) = struct.unpack_from("<Q", content)
        for size in (0, 7, 8, 100, 8 + header, len(content) - 1):
            with self.subTest(size=size):
                self.weights.write_bytes(content[:size])
                self.refuse(BAD_INPUT, "model.safetensors", "info", self.model)

    def test_missing_tensor(self):
        header, data = read_safetensors(self.weights)
        header["renamed"] = header.pop(SOME_TENSOR)
        write_safetensors(self.weights, header, data)
        self.refuse_model(SOME_TENSOR)

    def test_wrong_dtype(self):
        header, data = read_safetensors(self.weights)
        self.assertEqual(header[SOME_TENSOR]["dtype"], "BF16")
        header[SOME_TENSOR]["dtype"] = "I16"
        write_safetensors(self.weights, header, data)
        self.refuse_model(SOME_TENSOR, "I16")

    def test_wrong_shape(self):
        self.change_config(intermediate_size=96)
        self.refuse_model("96")

    def test_unknown_architecture(self):
        self.change_config(model_type="mamba9")
        self.refuse_model("mamba9")

    def test_garbage_config(self):
        for content in ("", "{", "[]", "null", "\xff", '{"model_type": 7}'):
            with self.subTest(content=content):
                (self.model / "config.json").write_text(content, encoding="latin-1")
                self.refuse(BAD_INPUT, "config.json", "info", self.model)

    def test_no_tokenizer(self):
        (self.model / "tokenizer.json").unlink()
        self.refuse(BAD_INPUT, "tokenizer.json", "run", self.model, "hi")
        self.refuse(BAD_INPUT, "tokenizer.json", "profile", self.model, "-o", "s.json")

    def test_weights_that_are_not_finite(self):
        plan = self.succeed("plan", self.profile(), "--bpw", "6", "-o", "plan.json")
        self.assertGreater(plan["bytes"], 0)
        header, data = read_safetensors(self.weights)
        first = header[SOME_TENSOR]["data_offsets"][0]
        for value in (float("nan"), float("inf")):
            with self.subTest(value=value):
                data[first + 40:first + 42] = struct.pack("<f", value)[2:]  # BF16: the upper half of an F32
                write_safetensors(self.weights, header, data)
                self.refuse(BAD_INPUT, SOME_TENSOR.removesuffix(".weight"), "encode", self.model, "plan.json", "out")
                self.refuse(BAD_INPUT, SOME_TENSOR.removesuffix(".weight"), "profile", self.model, "-o", "s.json",
                            "--calibration", self.text, *CALIBRATION)


class Tuning(CliTest):
    """`round` and `distill` refuse what does not fit, and leave the checkpoint as it is."""

    def setUp(self):
        super().setUp()
        self.succeed("profile", self.model, "-o", "s.json", "--calibration", self.text, "--sequences", "9", "--tokens", "16")
        self.succeed("uniform", "s.json", "2x32", "-o", "plan.json")
        self.succeed("encode", self.model, "plan.json", "out")

    def refuse_both(self, code: int, mentions, model="out", reference=None, tokens="s.importance.safetensors"):
        for verb in ("round", "distill"):
            with self.subTest(verb=verb, mentions=mentions):
                self.refuse(code, mentions, verb, model, "--reference", reference or self.model, "--calibration", tokens)

    def test_options(self):
        inputs = ("out", "--reference", self.model, "--calibration", "s.importance.safetensors")
        for mentions, arguments in (
                ("model", ("round",)), ("--reference", ("round", "out", "--calibration", "x")),
                ("--calibration", ("distill", "out", "--reference", self.model)),
                ("step", ("round", *inputs, "--steps", "0")), ("--steps", ("round", *inputs, "--steps", "few")),
                ("rates", ("round", *inputs, "--offset-rate=-1")), ("rates", ("round", *inputs, "--range-rate", "nan")),
                ("9", ("round", *inputs, "--most-bits", "9")), ("0", ("round", *inputs, "--most-bits", "0")),
                ("epoch", ("distill", *inputs, "--epochs", "0")), ("--epochs", ("distill", *inputs, "--epochs", "1.5")),
                ("learning rate", ("distill", *inputs, "--learning-rate", "0")),
                ("learning rate", ("distill", *inputs, "--learning-rate", "inf")),
                ("--learned-bits", ("quantize", self.model, "new", "--bpw", "6", "--learned-bits", "9")),
                ("--learned-bits", ("quantize", self.model, "new", "--bpw", "6", "--learned-bits", "some")),
                ("--learned-bits", ("quantize", self.model, "new", "--bpw", "6", "--learned-bits", "3", "--effort", "fast",
                                    "--calibration", self.text, "--max-memory", "4GB"))):
            with self.subTest(arguments=arguments):
                self.refuse(USAGE, mentions, *arguments)

    def test_models_that_do_not_fit(self):
        self.refuse_both(BAD_INPUT, "nowhere", model="nowhere")
        self.refuse_both(BAD_INPUT, "nowhere", reference="nowhere")
        self.refuse_both(BAD_INPUT, "optiq.json", model=self.model)
        other = write_model(self.folder / "other", "llama")
        self.refuse_both(BAD_INPUT, "as the reference has", reference=other)
        self.refuse(BAD_INPUT, "full-precision weights", "round", "out", "--reference", "out", "--calibration",
                    "s.importance.safetensors")

    def test_calibration_that_does_not_fit(self):
        self.refuse_both(BAD_INPUT, "nowhere", tokens="nowhere")
        self.refuse_both(BAD_INPUT, "text.txt", tokens="text.txt")
        self.refuse_both(BAD_INPUT, "calibration.tokens", tokens="model/model.safetensors")
        self.succeed("profile", self.model, "-o", "few.json", "--calibration", self.text, "--sequences", "8", "--tokens", "16")
        self.refuse_both(BAD_INPUT, "more than 8", tokens="few.importance.safetensors")
        self.refuse(BAD_INPUT, "more than 8", "quantize", self.model, "new", "--bpw", "6", "--learned-bits", "8",
                    "--sensitivity", "few.json", "--calibration", self.text, "--sequences", "8", "--tokens", "16")


class BadFiles(CliTest):
    def test_calibration(self):
        (self.folder / "empty.txt").write_bytes(b"")
        (self.folder / "bad.jsonl").write_text('{"text": "abc"}\n{"text": \n')
        for name in ("empty.txt", "bad.jsonl", "nowhere.txt"):
            with self.subTest(name=name):
                self.refuse(BAD_INPUT, name, "profile", self.model, "-o", "s.json", "--calibration", name, *CALIBRATION)
        self.refuse(BAD_INPUT, "empty.txt", "eval", self.model, "--text", "empty.txt")

    def test_sensitivity(self):
        for content in ("", "{", "[]", "7", "{}", '{"format": "optiq-sensitivity", "version": 99}'):
            with self.subTest(content=content):
                (self.folder / "s.json").write_text(content)
                self.refuse(BAD_INPUT, "s.json", "plan", "s.json", "--bpw", "5")
        self.refuse(BAD_INPUT, "nowhere.json", "plan", "nowhere.json", "--bpw", "5")

    def test_plan(self):
        self.succeed("plan", self.profile(), "--bpw", "6")
        good = json.loads((self.folder / "plan.json").read_text())
        renamed = json.loads(json.dumps(good).replace("layers.1.mlp.up_proj", "layers.7.mlp.up_proj"))
        for content in ("", "{", "[]", "{}", "\0" * 9, json.dumps(good | {"bytes": 1}), json.dumps(good | {"modules": []}),
                        json.dumps(renamed), json.dumps(good)[:-100]):
            with self.subTest(content=content[:30]):
                (self.folder / "bad.json").write_text(content)
                self.refuse(BAD_INPUT, [], "encode", self.model, "bad.json", "out")

    def test_latency(self):
        profile = self.profile()
        good = json.loads(write_latency(self.folder / "good.json", profile).read_text())
        lacking = [entry for entry in good["entries"] if entry["bits"] != 3]
        limit = ("plan", profile, "--bpw", "6", "--tokens-per-second", "9", "--latency")
        for content in ("", "{", "[]", "{}", json.dumps(good | {"entries": []}), json.dumps(good | {"fixed_seconds": -1}),
                        json.dumps(good | {"entries": good["entries"] * 2})):
            with self.subTest(content=content[:30]):
                (self.folder / "bad.json").write_text(content)
                self.refuse(BAD_INPUT, "bad.json", *limit, "bad.json")
        (self.folder / "lacking.json").write_text(json.dumps(good | {"entries": lacking}))
        self.refuse(BAD_INPUT, "3x32 was not measured", *limit, "lacking.json")
        self.succeed(*limit, "lacking.json", "--bits", "2,4,5,6,8")
        self.refuse(BAD_INPUT, "nowhere.json", *limit, "nowhere.json")

    def test_a_changed_checkpoint_is_no_longer_proven(self):
        self.succeed("plan", self.profile(), "--bpw", "6")
        self.succeed("encode", self.model, "plan.json", "out")
        config = self.folder / "out/config.json"
        kept = config.read_text()
        config.write_text(kept.replace('"bits"', '"bitz"', 3))
        self.refuse(BAD_INPUT, "config.json", "verify", "out")
        config.write_text(kept)
        self.succeed("verify", "out")
        with open(self.folder / "out/model.safetensors", "ab") as file:
            file.write(b"\0")
        self.refuse(BAD_INPUT, "model.safetensors", "verify", "out")

    def test_import(self):
        (self.folder / "bad.gguf").write_bytes(b"GGUF\3\0\0\0")
        self.refuse(BAD_INPUT, "bad.gguf", "import", "bad.gguf", "imported")

    def test_foreign_folders_are_never_replaced(self):
        self.succeed("plan", self.profile(), "--bpw", "6")
        (self.folder / "precious").mkdir()
        (self.folder / "precious/thesis.txt").write_text("years of work")
        for out in ("precious", self.model):
            self.refuse(BAD_INPUT, str(out), "encode", self.model, "plan.json", out)
            self.refuse(BAD_INPUT, str(out), "quantize", self.model, out, "--bpw", "6", "--calibration", self.text,
                        *CALIBRATION)


class OutOfResources(CliTest):
    def test_target_below_a_file(self):
        self.succeed("plan", self.profile(), "--bpw", "6")
        below = f"{self.text}/out"
        self.refuse(OUT_OF_RESOURCES, str(self.text), "encode", self.model, "plan.json", below)
        self.refuse(OUT_OF_RESOURCES, str(self.text), "plan", "sensitivity.json", "--bpw", "6", "-o", below)
        self.refuse(OUT_OF_RESOURCES, str(self.text), "profile", self.model, "-o", below, "--calibration", self.text,
                    *CALIBRATION)

    def test_full_disk(self):
        self.succeed("plan", self.profile(), "--bpw", "6")
        for limit in (0, 4096, 40000):
            with self.subTest(limit=limit):
                self.refuse(OUT_OF_RESOURCES, "model.safetensors", "encode", self.model, "plan.json", "out",
                            preexec_fn=limit_files_to(limit))
        self.refuse(OUT_OF_RESOURCES, "other.json", "plan", "sensitivity.json", "--bpw", "6", "-o", "other.json",
                    preexec_fn=limit_files_to(100))
        self.refuse(OUT_OF_RESOURCES, "s.json", "profile", self.model, "-o", "s.json", "--calibration", self.text,
                    *CALIBRATION, preexec_fn=limit_files_to(100))

    def test_full_disk_leaves_the_old_output(self):
        self.succeed("plan", self.profile(), "--bpw", "6")
        self.succeed("encode", self.model, "plan.json", "out")
        self.refuse(OUT_OF_RESOURCES, "out", "encode", self.model, "plan.json", "out", preexec_fn=limit_files_to(4096))
        self.succeed("verify", "out")

    def test_standard_output_is_full(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([BINARY, "info", str(self.model), "--json"], stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, OUT_OF_RESOURCES)
        self.assertIn(b"standard output", done.stderr)


if __name__ == "__main__":
    unittest.main()
