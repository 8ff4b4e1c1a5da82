"""--max-memory keeps its promise, below the size of the weights, and changes no byte of what is written."""
import json
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest

from cli_support import BAD_INPUT, BINARY, IMPOSSIBLE_BUDGET, OUT_OF_RESOURCES, USAGE, CliTest, folder_content

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench" / "memory"))
import make_model  # noqa: E402
import measure  # noqa: E402

MEGABYTE = 1_000_000


class Bounded(CliTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.shared = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="optiq-memory-")))
        cls.large = make_model.write_model(cls.shared / "large", "small", 8, shard_bytes=60 * MEGABYTE)
        cls.sensitivity = cls.shared / "sensitivity.json"
        cls.model_bytes = sum(file.stat().st_size for file in cls.large.glob("*.safetensors"))
        sensitivity = measure.write_sensitivity(cls.large, cls.shared / "sensitivity.json", encoder="rtn")
        measure.must_run([BINARY, "plan", sensitivity, "--bpw", "4.5", "-o", cls.shared / "plan.json"])
        measure.must_run([BINARY, "encode", cls.large, cls.shared / "plan.json", cls.shared / "expected", "--quiet"])

    def within(self, megabytes: int, *arguments) -> measure.Run:
        """Runs under a limit, by which the kernel bounds anonymous memory too; its count of the peak, with the pages of
        files, is within it, and below what the weights alone take."""
        def limit_anonymous_memory():  # the kernel refuses more than that
            resource.setrlimit(resource.RLIMIT_DATA, (megabytes * MEGABYTE, megabytes * MEGABYTE))

        done = measure.must_run([BINARY, *arguments, "--json", "--quiet", "--max-memory", f"{megabytes}MB"], cwd=self.folder,
                                preexec_fn=limit_anonymous_memory)
        self.assertLess(done.peak_bytes, min(megabytes * MEGABYTE, self.model_bytes))
        return done

    def encode(self, out: str) -> list:
        return ["encode", self.large, self.shared / "plan.json", out]

    def test_encode(self):
        self.within(200, *self.encode("out"))
        self.assertEqual(folder_content(self.folder / "out"), folder_content(self.shared / "expected"))

    def test_encode_in_a_control_group(self):
        """The kernel would kill it: more pages than that are not to be had."""
        with measure.hard_limit(200 * MEGABYTE) as enter:
            if enter is None:
                self.skipTest("no control group for memory can be made here")
            measure.must_run([BINARY, *self.encode("out"), "--quiet", "--max-memory", "200MB"], cwd=self.folder, preexec_fn=enter)
        self.assertEqual(folder_content(self.folder / "out"), folder_content(self.shared / "expected"))

    def test_eval(self):
        arguments = ["eval", self.shared / "expected", "--reference", self.large, "--text", self.text, "--context", "64",
                     "--windows", "3"]
        expected = self.succeed(*arguments)
        found = json.loads(self.within(300, *arguments).stdout)
        self.assertEqual(found, expected)

    def profile_of(self, model, estimator: str, encoder: str, out: str, bits: str = "2,4") -> list:
        return ["profile", model, "--calibration", self.text, "--sequences", "2", "--tokens", "32", "--estimator", estimator,
                "--encoder", encoder, "--bits", bits, "--groups", "64", "-o", out]

    def test_profile(self):
        for estimator, megabytes in (("mse", 450), ("fisher", 380)):
            with self.subTest(estimator=estimator):
                self.succeed(*self.profile_of(self.large, estimator, "rtn", "whole.json"))
                self.within(megabytes, *self.profile_of(self.large, estimator, "rtn", "bounded.json"))
                for name in ("{}.json", "{}.importance.safetensors"):
                    self.assertEqual((self.folder / name.format("bounded")).read_bytes(),
                                     (self.folder / name.format("whole")).read_bytes())

    @unittest.skipUnless(sys.platform == "linux", "the peak is read from /proc")
    def test_a_run_stays_within_what_was_planned(self):
        """Weights and KV cache of the plan, a prompt that fills the context: the kernel's count of the peak."""
        for context, memory in ((300, "230MB"), (2000, "235MB"), (5000, "245MB")):
            with self.subTest(context=context):
                plan = self.succeed("plan", self.sensitivity, "--memory", memory, "--context", context, "--kv", "auto")
                self.assertLess(plan["kv"]["bits"], 16)
                shutil.rmtree(self.folder / "out", ignore_errors=True)
                self.succeed("encode", self.large, "plan.json", "out")
                prompt = "".join(chr(97 + i * i % 23) for i in range(context - 80))
                done = measure.must_run([BINARY, "run", self.folder / "out", prompt, "--raw", "--max-tokens", "80", "--json"])
                said = json.loads(done.stdout)  # weights move into huge pages over 64 tokens
                self.assertEqual(said["prompt_tokens"] + said["generated_tokens"], context)
                self.assertLess(done.peak_bytes, plan["memory"]["total_bytes"])
                self.assertGreater(done.peak_bytes, plan["memory"]["cache_bytes"] + plan["bytes"] / 2)

    def test_too_little(self):
        self.refuse(IMPOSSIBLE_BUDGET, ["encode", "the least that would do"], *self.encode("out"), "--max-memory", "50MB")
        self.refuse(IMPOSSIBLE_BUDGET, "the least that would do", "profile", self.large, "-o", "s.json", "--calibration",
                    self.text, "--tokens", "32", "--max-memory", "50MB")
        self.refuse(IMPOSSIBLE_BUDGET, "the least that would do", "eval", self.large, "--text", self.text, "--max-memory",
                    "50MB")
        self.refuse(USAGE, "nonsense", *self.encode("out"), "--max-memory", "nonsense")

    def test_what_a_limit_rules_out(self):
        self.refuse(USAGE, "--calibration FILE", "profile", self.large, "-o", "s.json", "--max-memory", "4GB")
        self.refuse(USAGE, "--effort fast or balanced", "quantize", self.large, "out", "--bpw", "4.5", "--effort", "best",
                    "--calibration", self.text, "--max-memory", "4GB")

    def test_quantize(self):
        for effort in ("fast", "balanced"):
            arguments = ["quantize", self.model, effort, "--bpw", "6", "--effort", effort, "--calibration", self.text,
                         "--sequences", "2", "--tokens", "32", "--eval-sequences", "2", "--max-memory", "1GB"]
            self.assertGreater(self.succeed(*arguments)["kl_mean"], 0)
            first = folder_content(self.folder / effort)
            self.succeed(*arguments)
            self.assertEqual(folder_content(self.folder / effort), first)

    def test_quantize_says_its_needs_first(self):
        """While it works, through a pipe."""
        command = [BINARY, "quantize", self.large, "out", "--bpw", "6", "--effort", "fast", "--calibration", self.text,
                   "--tokens", "32", "--max-memory", "1GB"]
        with subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            said = process.stdout.readline() + process.stdout.readline()
            process.kill()
        self.assertFalse((self.folder / "out").exists())
        self.assertRegex(said, r"^effort fast: about [\d.]+ .*\n[\d.]+ \w+ of disk beside out while it profiles\n$")

    def test_a_removed_shard(self):
        model = pathlib.Path(shutil.copytree(self.large, self.folder / "copy"))
        shard = sorted(model.glob("*.safetensors"))[1]
        shard.rename(self.folder / "elsewhere")
        self.refuse(BAD_INPUT, [shard.name, "missing"], "encode", model, self.shared / "plan.json", "out")
        (self.folder / "elsewhere").rename(shard)
        self.succeed("encode", model, self.shared / "plan.json", "out")
        self.assertEqual((self.folder / "out" / "model.safetensors").read_bytes(),
                         (self.shared / "expected" / "model.safetensors").read_bytes())

    def test_profile_without_a_shard(self):
        """An error that names it; when it is back, the same command gives the result."""
        model = pathlib.Path(shutil.copytree(self.large, self.folder / "copy"))
        shard = sorted(model.glob("*.safetensors"))[1]
        expected = self.succeed(*self.profile_of(model, "fisher", "rtn", "whole.json"))
        shard.rename(self.folder / "elsewhere")
        self.refuse(BAD_INPUT, [shard.name, "missing"], *self.profile_of(model, "fisher", "rtn", "s.json"))
        (self.folder / "elsewhere").rename(shard)
        self.assertEqual(self.succeed(*self.profile_of(model, "fisher", "rtn", "s.json"))["modules"], expected["modules"])
        self.assertEqual((self.folder / "s.json").read_bytes(), (self.folder / "whole.json").read_bytes())

    def test_profile_on_a_full_disk(self):
        """Scratch data that do not fit are refused before any work, and nothing stays behind."""
        def no_large_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, MEGABYTE))

        arguments = self.profile_of(self.large, "fisher", "rtn", "s.json", bits="2,3,4,5,6,8")
        done = self.run_optiq(*arguments, "--json", "--max-memory", "380MB", preexec_fn=no_large_files)
        self.assertEqual(done.returncode, OUT_OF_RESOURCES, done.stderr)
        self.assertFalse((self.folder / "s.json").exists())
        self.assertEqual([path.name for path in self.folder.iterdir() if path.name.startswith("optiq-scratch")], [])


if __name__ == "__main__":
    unittest.main()
