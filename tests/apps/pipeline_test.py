"""Every verb on a tiny model, in the order people use them: what --json says, and what lies on disk."""
import json
import subprocess
import unittest

from cli_support import (BAD_INPUT, BINARY, CALIBRATION, CliTest, GOLDENS, IMPOSSIBLE_BUDGET, USAGE, weight_file_bytes, write_latency,
                         write_model, write_tasks)

PLAN_FIELDS = {"bytes": int, "bits_per_weight": float, "predicted_kl": float, "gap": float, "seconds": float,
               "modules": list}
EVAL_FIELDS = {"ppl": float, "ppl_stderr": float, "kl_mean": float, "kl_stderr": float, "kl_p99": float,
               "top1_agreement": float, "tokens": int, "context": int}
INFO_FIELDS = {"bytes": int, "parameters": int, "bits_per_weight": float, "modules": list}
MODULE_FIELDS = {"name": str, "bits": int, "group_size": int, "bytes": int}
PARAMETERS = 56384  # of the golden model llama-tied-biased
FULL_BYTES = 2 * PARAMETERS  # at 16 bits, before headers


class ProfileAndPlan(CliTest):
    def test_every_estimator_gives_a_profile_that_plans(self):
        for estimator in ("fisher", "kl", "mse"):
            with self.subTest(estimator=estimator):
                profile = self.profile("--estimator", estimator, out=f"{estimator}.json")
                self.assertEqual(json.loads(profile.read_text())["estimator"], estimator)
                plan = self.succeed("plan", profile, "--bpw", "6")
                self.assertLessEqual(plan["bits_per_weight"], 6)

    def test_profile_json(self):
        found = self.succeed("profile", self.model, "-o", "s.json", "--calibration", self.text, *CALIBRATION)
        self.assert_fields(found, {"out": str, "estimator": str, "modules": int, "sequences": int, "tokens": int,
                                   "half_split_spearman": float, "seconds": float})
        self.assertEqual((found["modules"], found["sequences"], found["tokens"]), (15, 4, 32))

    def test_fold(self):
        found = self.succeed("fold", self.model, "folded", "--calibration", self.text, *CALIBRATION, "--format", "4x32")
        self.assertEqual(found["folds"], "awq")
        same = self.succeed("eval", "folded", "--reference", self.model, "--text", self.text, "--context", "32")
        self.assertLess(same["kl_mean"], 0.01)
        before, after = self.succeed("info", self.model), self.succeed("info", "folded")
        self.assertEqual(after["modules"], before["modules"])
        self.refuse(3, "refusing", "fold", self.model, self.model, "--fold", "r2")

    def test_a_mixture_is_recorded(self):
        self.succeed("profile", self.model, "-o", "s.json", "--calibration", "self:3", "--calibration",
                     f"{self.text}:1", *CALIBRATION)
        mixture = json.loads((self.folder / "s.json").read_text())["calibration"]["mixture"]
        self.assertEqual([part["weight"] for part in mixture], [3, 1])

    def test_calibration_report(self):
        mixed = self.profile("--seed", "3")
        found = self.succeed("calibration-report", self.model, "self", mixed, "--bpw", "6", "--eval-sequences", "2",
                             *CALIBRATION)
        self.assertEqual([len(found["sets"]), len(found["pairs"])], [2, 2])
        for pair in found["pairs"]:
            self.assertEqual(set(pair), {"calibrated_on", "text", "predicted_kl", "kl", "excess",
                                         "modules_differing", "bytes_differing", "spearman"})
        for chosen in found["sets"]:
            self.assertLessEqual(chosen["bits_per_weight"], 6)
            self.assertGreater(chosen["kl"]["mean"], 0)
        left = sorted(path.name for path in (self.folder / "calibration-report").iterdir())
        self.assertEqual(left, ["1.self.sensitivity.importance.safetensors", "1.self.sensitivity.json"])
        planned = self.succeed("calibration-report", self.model, mixed, mixed, "--bpw", "6", "--plans-only")
        self.assertNotIn("kl", planned["pairs"][0])
        self.assertEqual(planned["pairs"][0]["excess"]["mean"], 0)

    def test_self_calibration_needs_no_data(self):
        self.succeed("profile", self.model, "-o", "s.json", "--sequences", "2", "--tokens", "16")
        self.assertTrue((self.folder / "s.json").exists())

    def test_same_seed_same_profile(self):
        first = self.profile(out="a.json").read_bytes()
        self.assertEqual(self.profile(out="b.json").read_bytes(), first)
        self.assertNotEqual(self.profile("--seed", "9", out="c.json").read_bytes(), first)

    def test_every_kind_of_budget_is_kept(self):
        profile = self.profile()
        smallest = self.succeed("plan", profile, "--bpw", "4")["bytes"]
        memory = self.succeed("plan", profile, "--memory", "1GB", "--context", "64")["memory"]
        overhead = memory["cache_bytes"] + memory["scratch_bytes"]
        limits = {("--bpw", "5.5"): 5.5 * PARAMETERS / 8, ("--size", "40kB"): 40000,
                  ("--reduce", "60%"): 0.4 * (FULL_BYTES + 4000),
                  ("--memory", str(overhead + 36000), "--context", "64"): 36000}
        for budget, limit in limits.items():
            with self.subTest(budget=budget):
                plan = self.succeed("plan", profile, *budget)
                self.assert_fields(plan, PLAN_FIELDS)
                for module in plan["modules"]:
                    self.assert_fields(module, MODULE_FIELDS)
                self.assertLessEqual(plan["bytes"], limit)
                self.assertLessEqual(plan["bytes"], plan["budget_bytes"])
                self.assertGreater(plan["bytes"], 0.9 * limit, "most of the budget is used")
                self.assertGreaterEqual(plan["bytes"], smallest)
        self.assertEqual(memory["context_tokens"], 64)

    def test_machines(self):
        fits = self.succeed("fit", self.model, "--device", "mac-8gb")
        self.assertEqual(fits["device"], {"name": "mac-8gb", "memory_bytes": 8 << 30, "usable_bytes": (8 << 30) // 3 * 2})
        self.assertEqual([(line["context_tokens"], line["kv"], line["runs"]) for line in fits["fits"]],
                         [(128, kv, "as_it_is") for kv in ("f16", "8", "4")])
        self.assertEqual({line["runs"] for line in self.succeed("fit", self.model, "--device", "pc-2gb")["fits"]}, {"no"})
        profile = self.profile()
        memory = self.succeed("plan", profile, "--device", "mac-8gb", "--context", "300", "--batch", "2", "--kv", "4")["memory"]
        self.assertEqual(memory["context_tokens"], 300)
        self.assertLessEqual(memory["total_bytes"], fits["device"]["usable_bytes"])
        self.refuse(IMPOSSIBLE_BUDGET, "smallest", "plan", profile, "--device", "pc-2gb")
        for verb in (["fit", self.model], ["plan", profile]):
            self.refuse(USAGE, "toaster", *verb, "--device", "toaster")

    def test_bits_of_the_cache(self):
        calibration = ["--calibration", self.text, "--sequences", "2", "--kv"]
        self.refuse(USAGE, "64 tokens at a time", "profile", self.model, *calibration, "--tokens", "32")
        self.refuse(USAGE, "mse", "profile", self.model, *calibration, "--tokens", "96", "--estimator", "mse")
        self.succeed("profile", self.model, "-o", "kv.json", *calibration, "--tokens", "96", "--bits", "4,8")
        need = ["--context", "4096", "--batch", "4", "--kv", "auto"]
        self.refuse(BAD_INPUT, "profile again with --kv", "plan", self.profile(), "--memory", "1GB", *need)
        self.refuse(USAGE, "--device", "plan", "kv.json", "--bpw", "6", "--kv", "auto")
        self.refuse(USAGE, "auto", "compare", self.model, "--memory", "1GB", *need)

        rich = self.succeed("plan", "kv.json", "--memory", "1GB", *need)
        self.assertEqual(len(rich["kv"]["blocks"]), 2)
        limit = rich["memory"]["total_bytes"] - rich["memory"]["cache_bytes"] // 3
        poor = self.succeed("plan", "kv.json", "--memory", str(limit), *need)
        self.assertLessEqual(poor["memory"]["total_bytes"], limit)
        self.assertLess(poor["kv"]["bits"], rich["kv"]["bits"])
        self.assertEqual([line["context_tokens"] for line in poor["contexts"]], [128])
        self.assertIn("kv_bits", poor["contexts"][0])
        fits = self.succeed("fit", self.model, "--device", "mac-8gb", "--sensitivity", "kv.json")["fits"]
        self.assertEqual([line["kv"] for line in fits], ["f16", "8", "4", "auto"])
        self.assertIn("kv_bits", fits[-1])

        self.succeed("encode", self.model, "plan.json", "out")
        self.assertTrue(self.succeed("verify", "out")["verified"])
        self.assertNotIn("kv", json.loads((self.folder / "out" / "config.json").read_text()))
        self.assertEqual([(block["keys"], block["values"]) for block in
                          json.loads((self.folder / "out" / "optiq.json").read_text())["plan"]["kv"]["blocks"]],
                         [(block["keys"], block["values"]) for block in poor["kv"]["blocks"]])
        said = f"KV cache as planned: {poor['kv']['bits']:.2f} bits"
        measure = ["eval", "out", "--text", self.text, "--context", "128", "--windows", "2"]
        self.assertIn(said, self.run_optiq(*measure).stdout)
        self.assertNotIn(said, self.run_optiq(*measure, "--kv", "f16").stdout)
        self.assertIn(said, self.run_optiq("run", "out", "hello", "--max-tokens", "2").stderr)
        self.assertNotIn(said, self.run_optiq("run", "out", "hello", "--max-tokens", "2", "--kv", "8").stderr)
        bench = ["bench", "out", "--prompts", "8", "--depths", "100", "--decode-tokens", "2", "--repeats", "1"]
        self.assertLess(self.succeed(*bench)["decode"][0]["bytes_per_token"],
                        self.succeed(*bench, "--kv", "f16")["decode"][0]["bytes_per_token"])
        (self.folder / "out" / "optiq.json").write_text("{}")
        self.refuse(BAD_INPUT, "optiq.json", "run", "out", "hello")

    def test_rules_of_a_plan(self):
        plan = self.succeed("plan", self.profile(), "--bpw", "8", "--pin", "model.layers.0.*=8x64", "--min-bits",
                            "4", "--bits", "3,4,8", "--groups", "64", "--frontier", "--svg", "frontier.svg")
        for module in plan["modules"]:
            self.assertIn((module["bits"], module["group_size"]), {(4, 64), (8, 64)})
            if module["name"].startswith("model.layers.0."):
                self.assertEqual(module["bits"], 8)
        sizes = [point["bytes"] for point in plan["frontier"]]
        self.assertEqual(sizes, sorted(sizes))
        self.assertGreater(plan["frontier"][0]["predicted_kl"], plan["frontier"][-1]["predicted_kl"])
        self.assertIn("4x64", [point["format"] for point in plan["uniform"]])
        self.assertIn("<svg", (self.folder / "frontier.svg").read_text())

    def test_a_plan_that_is_fast_enough(self):
        profile = self.profile()
        latency = write_latency(self.folder / "latency.json", profile)
        free = self.succeed("plan", profile, "--bpw", "6", "--tokens-per-second", "1", "--latency", latency)
        speed = 1.05 * free["latency"]["tokens_per_second"]
        arguments = ("plan", profile, "--bpw", "6", "--tokens-per-second", speed, "--latency", latency)
        plan = self.succeed(*arguments)
        self.assert_fields(plan["latency"], {"seconds_per_token": float, "limit_seconds": float,
                                             "tokens_per_second": float})
        self.assertGreaterEqual(plan["latency"]["tokens_per_second"], speed * (1 - 1e-9))
        self.assertGreaterEqual(sum(module["cost"] for module in plan["modules"]),
                                sum(module["cost"] for module in free["modules"]))
        self.assertLessEqual(plan["bits_per_weight"], 6)
        stored = json.loads((self.folder / "plan.json").read_text())["latency"]
        self.assertEqual(stored["seconds_per_token"], plan["latency"]["seconds_per_token"])
        self.assertRegex(self.run_optiq(*arguments).stdout, r"[0-9] tokens per second predicted")

    def test_uniform_plan(self):
        plan = self.succeed("uniform", self.profile(), "4x32", "-o", "u.json")
        self.assertEqual({(m["bits"], m["group_size"]) for m in plan["modules"]}, {(4, 32)})
        self.succeed("encode", self.model, "u.json", "out")
        self.assertEqual(weight_file_bytes(self.folder / "out"), plan["bytes"])


class EncodeAndMeasure(CliTest):
    def setUp(self):
        super().setUp()
        self.out = self.folder / "out"
        self.plan = self.succeed("plan", self.profile(), "--bpw", "6", "-o", "plan.json")
        self.encoded = self.succeed("encode", self.model, "plan.json", self.out)

    def test_planned_bytes_are_the_files(self):
        self.assertEqual(self.encoded["bytes"], self.plan["bytes"])
        self.assertEqual(weight_file_bytes(self.out), self.plan["bytes"])

    def test_verify(self):
        found = self.succeed("verify", self.out)
        self.assertEqual((found["verified"], found["modules"], found["bytes"]), (True, 15, self.plan["bytes"]))

    def test_info_tells_what_was_planned(self):
        info = self.succeed("info", self.out)
        self.assert_fields(info, INFO_FIELDS)
        self.assertEqual((info["bytes"], info["parameters"]), (self.plan["bytes"], PARAMETERS))
        self.assertAlmostEqual(info["bits_per_weight"], self.plan["bytes"] * 8 / PARAMETERS)
        keys = list(MODULE_FIELDS)
        self.assertEqual([[m[key] for key in keys] for m in info["modules"]],
                         [[m[key] for key in keys] for m in self.plan["modules"]])

    def test_info_of_the_full_model(self):
        info = self.succeed("info", self.model)
        self.assertEqual((info["parameters"], info["bytes"]), (PARAMETERS, weight_file_bytes(self.model)))
        self.assertEqual({m["bits"] for m in info["modules"]}, {16})

    def test_eval_with_a_reference(self):
        found = self.succeed("eval", self.out, "--reference", self.model, "--text", self.text, "--context", "32")
        self.assert_fields(found, EVAL_FIELDS)
        self.assertEqual(found["context"], 32)
        self.assertEqual(found["tokens"], 31 * found["windows"])
        self.assertGreater(found["kl_mean"], 0)
        self.assertGreater(found["kl_p99"], found["kl_mean"])
        self.assertTrue(0 < found["top1_agreement"] < 1)
        self.assertEqual(len(found["window_nll"]), found["windows"])

    def test_a_model_is_no_distance_from_itself(self):
        found = self.succeed("eval", self.model, "--reference", self.model, "--text", self.text, "--context", "32")
        self.assertLess(abs(found["kl_mean"]), 1e-7)
        self.assertEqual(found["top1_agreement"], 1)

    def test_rounding_activations_costs_little(self):
        text = ("--text", self.text, "--context", "32", "--windows", "2")
        against_itself = self.succeed("eval", self.out, "--reference", self.out, *text, "--compute", "int8")
        self.assertTrue(0 < against_itself["kl_mean"] < 0.05, against_itself["kl_mean"])
        exact = self.succeed("eval", self.out, "--reference", self.model, *text)["kl_mean"]
        rounded = self.succeed("eval", self.out, "--reference", self.model, *text, "--compute", "int8")["kl_mean"]
        self.assertNotEqual(exact, rounded)
        self.assertLess(abs(rounded - exact), 0.5 * exact)

    def test_eval_without_a_reference(self):
        found = self.succeed("eval", self.out, "--text", self.text, "--context", "32", "--windows", "2")
        self.assertEqual((found["windows"], found["tokens"]), (2, 62))
        self.assertNotIn("kl_mean", found)

    def test_eval_of_tasks(self):
        data = write_tasks(self.folder / "data")
        arguments = ("eval", self.out, "--tasks", "mmlu,hellaswag", "--data", data)
        tasks = self.succeed(*arguments, "--reference", self.model, "--limit", "10")["tasks"]
        self.assertEqual(set(tasks), {"hellaswag", "mmlu"})
        for name in ("acc", "reference_acc", "acc_difference", "same_acc_choice"):
            for task in tasks.values():
                self.assert_fields(task, {name: float, f"{name}_stderr": float, "questions": int})
        mmlu = tasks["mmlu"]
        self.assertAlmostEqual(mmlu["acc_difference"], mmlu["acc"] - mmlu["reference_acc"])
        self.assertEqual({name: part["questions"] for name, part in mmlu["subjects"].items()}, {"x": 5, "y": 5})
        self.assertEqual(len(mmlu["answers"]), 10)
        self.assertIn("acc_norm_difference", tasks["hellaswag"])
        self.assertNotIn("reference_acc", self.succeed(*arguments)["tasks"]["mmlu"])
        self.assertIn("mmlu acc", self.run_optiq(*arguments).stdout)
        self.refuse(3, "mmlu/test", "eval", self.out, "--tasks", "mmlu", "--data", self.folder)
        self.refuse(2, "arc", "eval", self.out, "--tasks", "arc", "--data", data)

    def test_run(self):
        arguments = ("run", self.out, "hello", "--max-tokens", "6")
        found = self.succeed(*arguments)
        self.assert_fields(found, {"text": str, "tokens": list, "stop_reason": str, "prompt_tokens": int,
                                   "cached_tokens": int, "generated_tokens": int, "prefill_tokens_per_second": float,
                                   "decode_tokens_per_second": float})
        self.assertEqual((found["prompt_tokens"], len(found["tokens"])), (5, found["generated_tokens"]))
        self.assertEqual(self.succeed(*arguments)["tokens"], found["tokens"], "temperature 0 is deterministic")
        self.assertEqual(self.run_optiq(*arguments).stdout, found["text"] + "\n")

    def test_a_prompt_cache(self):
        prompt, cache = "hello world " * 5, self.folder / "cache"
        options = ("--max-tokens", "6", "--prompt-cache", "cache")
        expected = self.succeed("run", self.out, prompt, "--max-tokens", "6")
        first = self.succeed("run", self.out, prompt, *options)
        self.assertEqual((first["tokens"], first["cached_tokens"]), (expected["tokens"], 0))
        written = cache.read_bytes()
        again = self.succeed("run", self.out, prompt, *options)
        self.assertEqual((again["tokens"], again["cached_tokens"]), (expected["tokens"], len(prompt)))
        longer = self.succeed("run", self.out, prompt + "more", *options, "--prompt-cache-ro")
        self.assertEqual((longer["cached_tokens"], longer["prompt_tokens"]), (len(prompt), len(prompt) + 4))
        self.assertEqual(cache.read_bytes(), written)
        other = self.succeed("run", self.out, "hello you", *options)
        self.assertEqual(other["cached_tokens"], len("hello "))
        self.assertEqual(other["tokens"], self.succeed("run", self.out, "hello you", "--max-tokens", "6")["tokens"])
        self.assertNotEqual(cache.read_bytes(), written)
        self.assertIn("9 from the cache", self.run_optiq("run", self.out, "hello you", *options).stderr)
        whole = self.succeed("run", self.out, prompt, *options, "--prompt-cache-all")
        gone_on = self.succeed("run", self.out, prompt + whole["text"], *options)
        self.assertEqual(gone_on["cached_tokens"], len(prompt) + len(whole["tokens"]))
        self.assertEqual([path for path in self.folder.iterdir() if path.name.startswith(".cache")], [])

    def test_a_chat_with_a_prompt_cache(self):
        arguments = ("chat", self.out, "--max-tokens", "4", "--temperature", "0", "--prompt-cache", "cache")
        first = self.succeed(*arguments, input="hello\nagain\n", stdin=None)
        again = self.run_optiq(*arguments, input="hello\nagain\n", stdin=None)
        self.assertIn("[prompt 0 tokens and 5 from the cache", again.stderr)
        self.assertEqual(self.succeed(*arguments, input="hello\nagain\n", stdin=None), first)

    def test_prompt_caches_that_do_not_fit(self):
        cache = ("--prompt-cache", "cache")
        self.succeed("run", self.out, "hello", "--max-tokens", "1", *cache)
        written = (self.folder / "cache").read_bytes()
        self.refuse(3, "blocks.0.cache", "run", self.out, "hello", *cache, "--kv", "4")
        self.refuse(3, "compute", "run", self.out, "hello", *cache, "--precise")
        self.refuse(3, "another checkpoint", "run", self.model, "hello", *cache)
        (self.folder / "cache").write_bytes(written[:-1])
        self.refuse(3, "cache", "run", self.out, "hello", *cache)
        self.assertEqual((self.folder / "cache").read_bytes(), written[:-1])
        self.refuse(3, "missing", "run", self.out, "hello", "--prompt-cache", "missing", "--prompt-cache-ro")
        self.refuse(5, "nowhere", "run", self.out, "hello", "--prompt-cache", "nowhere/cache")
        self.refuse(2, "--prompt-cache", "run", self.out, "hello", "--prompt-cache-ro")
        self.refuse(2, "--prompt-cache", "run", self.out, "hello", *cache, "--prompt-cache-ro", "--prompt-cache-all")

    def test_run_as_exactly_as_it_can(self):
        for options in (("--precise",), ("--kv", "int8"), ("--precise", "--kv", "f32"), ("--kv", "4"),
                        ("--kv-keys", "8", "--kv-values", "3"), ("--kv", "5", "--kv-values", "16"),
                        ("--kv", "3", "--kv-rotate")):
            with self.subTest(options=options):
                found = self.succeed("run", self.out, "hello", "--max-tokens", "3", *options)
                self.assertLessEqual(found["generated_tokens"], 3)

    def test_rotation_needs_packed_keys(self):
        for options in ((), ("--kv", "f16"), ("--kv-keys", "16", "--kv-values", "4")):
            self.refuse(2, "packed keys", "run", self.out, "hello", "--kv-rotate", *options)

    def test_eval_through_the_cache(self):
        arguments = ("eval", self.model, "--text", self.text, "--context", "32")
        expected, exact = self.succeed(*arguments), self.succeed(*arguments, "--kv", "f32")
        self.assertAlmostEqual(exact["ppl"] / expected["ppl"], 1, delta=1e-4)
        self.assertEqual(exact["tokens"], expected["tokens"])
        self.refuse(2, "--kv", *arguments, "--kv", "f32", "--kv-keys", "4")
        to_itself = self.succeed(*arguments, "--kv", "f32", "--reference", self.model)
        self.assertLess(to_itself["kl_mean"], 1e-9)
        self.refuse(2, "--max-memory", *arguments, "--kv", "4", "--max-memory", "4GB")

    def test_bench(self):
        found = self.succeed("bench", self.out, "--prompts", "8,16", "--depths", "0,4", "--decode-tokens", "2",
                             "--repeats", "2")
        self.assertEqual([speed["tokens"] for speed in found["prefill"]], [8, 16])
        self.assertEqual([speed["depth"] for speed in found["decode"]], [0, 4])
        for speed in found["prefill"] + found["decode"] + [found["read_bandwidth"] | found["f32_peak"]]:
            spread = speed.get("tokens_per_second") or speed["bytes_per_second"]
            self.assertTrue(0 < spread["min"] <= spread["median"] <= spread["max"])
        self.assertTrue(0 < found["load_seconds"]["median"] < found["first_token_seconds"]["median"])
        self.assertEqual(found["file_bytes"], weight_file_bytes(self.out))
        self.assertGreater(found["decode"][1]["bytes_per_token"], found["decode"][0]["bytes_per_token"])
        self.assertGreater(found["peak_bytes"], 0)

    def test_bench_kernels_gives_the_planner_its_table(self):
        table = self.succeed("bench", self.model, "--kernels", "latency.json")
        shapes = {(entry["out_features"], entry["in_features"]) for entry in table["entries"]}
        modules = self.succeed("info", self.model)["modules"]
        self.assertEqual(shapes, {(module["out_features"], module["in_features"]) for module in modules})
        plan = self.succeed("plan", self.profile(), "--bpw", "6", "--latency", "latency.json", "--tokens-per-second",
                            "0.001")
        self.assertGreater(plan["latency"]["tokens_per_second"], 0)

    def test_chat_reads_standard_input(self):
        done = subprocess.run([BINARY, "chat", self.out, "--max-tokens", "4", "--json", "--quiet"],
                              input="hello\nagain\n\nnot read\n", capture_output=True, text=True, check=True)
        messages = self.only_object(done.stdout)["messages"]
        self.assertEqual([m["role"] for m in messages], ["user", "assistant"] * 2)
        self.assertEqual([m["content"] for m in messages if m["role"] == "user"], ["hello", "again"])
        self.assertEqual(done.stderr, "")

    def test_tokens_beyond_the_vocabulary_are_refused(self):
        """A tokenizer of another model: byte_bpe has 624 tokens, the model 96."""
        for name in ("tokenizer.json", "tokenizer_config.json"):
            content = (GOLDENS / "tokenizer" / "byte_bpe" / name).read_bytes()
            (self.model / name).write_bytes(content)
        done = self.run_optiq("eval", self.model, "--text", self.text, "--context", "32")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("96", done.stderr)


class Quantize(CliTest):
    def quantize(self, *options) -> dict:
        return self.succeed("quantize", self.model, "out", "--calibration", self.text, *CALIBRATION,
                            "--eval-sequences", "4", *options)

    def test_everything_in_one_go(self):
        found = self.quantize("--bpw", "6")
        for fields in (PLAN_FIELDS, EVAL_FIELDS, INFO_FIELDS):
            self.assert_fields(found, fields)
        baseline = found["baseline"]
        for fields in (EVAL_FIELDS, {"bytes": int, "bits_per_weight": float, "predicted_kl": float}):
            self.assert_fields(baseline, fields)
        self.assertEqual(weight_file_bytes(self.folder / "out"), found["bytes"])
        self.assertLessEqual(found["bytes"] * 8, 6 * PARAMETERS)
        self.assertGreaterEqual(baseline["bytes"], found["bytes"], "the baseline is never the smaller one")
        self.assertIn("<html", (self.folder / "out/report.html").read_text())
        self.assertEqual(self.succeed("verify", "out")["bytes"], found["bytes"])
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()),
                         ["model", "out", "out.sensitivity.importance.safetensors", "out.sensitivity.json", "text.txt"])

    def test_one_profile_serves_every_budget(self):
        first = self.quantize("--bpw", "6", "--sensitivity", "s.json")
        written = (self.folder / "s.json").stat().st_mtime_ns
        second = self.quantize("--size", "32kB", "--sensitivity", "s.json")
        self.assertEqual((self.folder / "s.json").stat().st_mtime_ns, written)
        self.assertLessEqual(second["bytes"], 32000)
        self.assertGreater(first["bytes"], 32000)
        self.assertEqual(weight_file_bytes(self.folder / "out"), second["bytes"])

    def test_foldings(self):
        self.refuse(3, "embeddings are tied", "quantize", self.model, "out", "--bpw", "6", "--fold", "r1",
                    "--calibration", self.text, *CALIBRATION)
        self.refuse(2, "r3", "quantize", self.model, "out", "--bpw", "6", "--fold", "r3", *CALIBRATION)
        for folds, kept in (("awq,r2", {"r2,awq"}), ("auto", {"none", "r2", "awq", "r2,awq"})):
            with self.subTest(folds=folds):
                found = self.quantize("--bpw", "6", "--fold", folds, "--effort", "fast")
                self.assertIn(found["folds"]["kept"], kept)
                self.assertEqual(self.succeed("verify", "out")["bytes"], found["bytes"])
                manifest = json.loads((self.folder / "out/optiq.json").read_text())
                self.assertEqual(manifest["source"], str(self.model))
                self.assertEqual(manifest.get("folds", "none"), found["folds"]["kept"])
        self.assertEqual(len(found["folds"]["trials"]), 3, "none, r2 and awq")

    def test_only_formats_that_were_asked_for(self):
        profile = self.profile(out="s.json")
        self.quantize("--bpw", "8", "--sensitivity", profile, "--bits", "4", "--groups", "32")
        self.assertEqual({(m["bits"], m["group_size"]) for m in self.succeed("info", "out")["modules"]}, {(4, 32)})
        self.quantize("--bpw", "8", "--sensitivity", profile, "--max-bits", "3")
        self.assertLessEqual({m["bits"] for m in self.succeed("info", "out")["modules"]}, {2, 3})

    def test_fast_enough(self):
        latency = write_latency(self.folder / "latency.json", self.profile(out="s.json"))
        found = self.quantize("--bpw", "6", "--sensitivity", "s.json", "--latency", latency, "--tokens-per-second", "9")
        self.assertGreater(found["latency"]["tokens_per_second"], 9)
        self.assertEqual(self.succeed("verify", "out")["bytes"], found["bytes"])

    def test_another_family(self):
        self.model = write_model(self.folder / "qwen", "qwen3")
        found = self.quantize("--reduce", "50%")
        self.assertEqual(self.succeed("info", "out")["family"], "qwen3")
        self.assertEqual(weight_file_bytes(self.folder / "out"), found["bytes"])

    def test_for_people(self):
        done = self.run_optiq("quantize", self.model, "out", "--bpw", "6", "--calibration", self.text, *CALIBRATION,
                              "--eval-sequences", "2", "--quiet")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for word in ("optiq", "uniform", "KL to reference", "report.html"):
            self.assertIn(word, done.stdout)


TUNE_CALIBRATION = ["--sequences", "12", "--tokens", "32"]  # eight of them are held out
DISTILL_FIELDS = {"held_out_kl": list, "best": int, "steps": int}
ROUND_FIELDS = {"held_out_kl_before": float, "held_out_kl_after": float, "steps_per_block": int, "blocks": list}


class Tune(CliTest):
    """Rounding, scales and biases of a tiny model at 2 bits, trained in place."""

    def setUp(self):
        super().setUp()
        self.succeed("profile", self.model, "-o", "s.json", "--calibration", self.text, *TUNE_CALIBRATION)
        self.succeed("uniform", "s.json", "2x32", "-o", "plan.json")
        self.succeed("encode", self.model, "plan.json", "out")
        self.inputs = ["--reference", self.model, "--calibration", "s.importance.safetensors"]

    def tune(self, verb: str, *options) -> dict:
        before = weight_file_bytes(self.folder / "out")
        found = self.succeed(verb, "out", *self.inputs, *options)
        self.assertEqual(found["model"], "out")
        self.assertEqual(weight_file_bytes(self.folder / "out"), before)
        self.succeed("verify", "out")
        self.assertEqual([path.name for path in self.folder.glob(".*")], [])
        return found

    def test_round(self):
        found = self.tune("round", "--steps", "20")
        self.assert_fields(found, ROUND_FIELDS)
        self.assertEqual(found["kept"], found["held_out_kl_after"] < found["held_out_kl_before"])
        self.assertEqual(found["steps_per_block"], 20)
        self.assertEqual([block["layer"] for block in found["blocks"]], [0, 1])
        for block in found["blocks"]:
            self.assertLessEqual(block["error_after"], block["error_before"])
        self.assertEqual(self.tune("round", "--most-bits", "1")["blocks"], [])

    def test_distill(self):
        found = self.tune("distill", "--epochs", "3", "--learning-rate", "0.003")
        self.assert_fields(found, DISTILL_FIELDS)
        self.assertEqual(found["held_out_kl"][found["best"]], min(found["held_out_kl"]))
        self.assertGreater(found["steps"], 0)

    def test_for_people(self):
        for verb, words in (("round", "rounding learned in 2 blocks, 25 steps each: held-out KL"),
                            ("distill", "scales and biases distilled")):
            done = self.run_optiq(verb, "out", *self.inputs, "--quiet")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn(words, done.stdout)

    def test_quantize_tells_what_it_trained(self):
        arguments = ["quantize", self.model, "best", "--bpw", "5", "--sensitivity", "s.json", "--calibration", self.text,
                     *TUNE_CALIBRATION, "--eval-sequences", "2"]
        found = self.succeed(*arguments, "--effort", "best")
        self.assert_fields(found["learned_rounding"], ROUND_FIELDS)
        self.assert_fields(found["distillation"], DISTILL_FIELDS)
        found = self.succeed(*arguments, "--learned-bits", "8")
        self.assertEqual(len(found["learned_rounding"]["blocks"]), 2)
        self.assertNotIn("distillation", found)
        found = self.succeed(*arguments)
        self.assertNotIn("learned_rounding", found)
        done = self.run_optiq(*arguments, "--effort", "best", "--learned-bits", "4", "--quiet")
        self.assertIn("rounding learned in", done.stdout)
        self.assertIn("scales and biases distilled", done.stdout)


class Compare(CliTest):
    def test_baselines_and_ours_at_their_bytes(self):
        profile = self.profile()
        found = self.succeed("compare", self.model, "--bpw", "6", "--sensitivity", profile, "--calibration", self.text,
                             *CALIBRATION, "--eval-sequences", "4", "-o", "compared.html")
        self.assertEqual([row["name"] for row in found["baselines"]],
                         ["uniform rtn", "uniform awq", "uniform gptq", "mixed_3_6 rtn", "mixed_4_6 rtn", "NF4", "Q4_0"])
        ours = {row["name"]: row for row in found["ours"]}
        self.assertLessEqual(found["ours"][0]["bytes"] * 8, 6 * PARAMETERS)
        for row in found["baselines"]:
            self.assert_fields(row, EVAL_FIELDS)
            self.assert_fields(row, {"bytes": int, "kl_difference": float, "kl_difference_stderr": float})
            rival = ours[row["rival"]]
            self.assertLessEqual(rival["bytes"], row["bytes"])
            self.assertAlmostEqual(row["kl_difference"], rival["kl_mean"] - row["kl_mean"], delta=1e-9)
        report = (self.folder / "compared.html").read_text()
        self.assertIn("mixed_3_6", report)
        self.assertIn("At equal bytes", report)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()),
                         ["compared.html", "model", "sensitivity.importance.safetensors", "sensitivity.json",
                          "text.txt"])


if __name__ == "__main__":
    unittest.main()
