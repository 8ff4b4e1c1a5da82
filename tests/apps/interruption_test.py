"""Killed at any moment: the old output is there whole, or the new one."""
import itertools
import shutil
import subprocess
import time
import unittest

from cli_support import BINARY, CALIBRATION, CliTest, folder_content, write_tasks

MOMENTS = 16


class Killed(CliTest):
    def setUp(self):
        super().setUp()
        self.sensitivity = self.profile()
        self.out = self.folder / "out"
        for bits in ("5", "7"):
            self.succeed("plan", self.sensitivity, "--bpw", bits, "-o", f"{bits}.json")
            self.succeed("encode", self.model, f"{bits}.json", bits)

    def kill_at_moments(self, arguments: list, duration: float):
        """Yields after each of the kills, spread over the time that the call takes."""
        for moment in range(MOMENTS):
            process = subprocess.Popen([BINARY, *map(str, arguments)], cwd=self.folder, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            time.sleep(duration * moment / (MOMENTS - 1))
            process.kill()
            yield process.wait()

    def time_of(self, *arguments) -> float:
        start = time.monotonic()
        self.succeed(*arguments)
        return time.monotonic() - start

    def debris(self) -> list:
        return [path.name for path in self.folder.iterdir() if path.name.startswith(".")]

    def test_encode(self):
        duration = self.time_of("encode", self.model, "7.json", "scratch")
        versions = {name: folder_content(self.folder / name) for name in ("5", "7")}
        shutil.copytree(self.folder / "5", self.out)
        plans = itertools.cycle(["7.json", "5.json"])
        killed = 0
        for _ in range(2):
            for code in self.kill_at_moments(["encode", self.model, next(plans), self.out], duration):
                killed += code < 0
                self.assertIn(folder_content(self.out), versions.values())
                self.succeed("verify", self.out)
        self.assertGreater(killed, MOMENTS // 2)
        self.succeed("encode", self.model, "7.json", self.out)
        self.assertEqual(folder_content(self.out), versions["7"])
        self.assertEqual(self.debris(), [], "a later run clears away what killed ones left")

    def test_quantize(self):
        shutil.copytree(self.folder / "5", self.out)
        old = folder_content(self.out)
        arguments = ["quantize", self.model, "out", "--bpw", "7", "--sensitivity", self.sensitivity, "--calibration",
                     self.text, *CALIBRATION, "--eval-sequences", "2"]
        duration = self.time_of(*("scratch" if word == "out" else word for word in arguments))
        for _ in self.kill_at_moments(arguments, duration):
            if folder_content(self.out) != old:
                self.succeed("verify", self.out)
        self.succeed(*arguments)
        self.assertEqual(self.debris(), [])
        self.assertFalse((self.folder / "out.baseline").exists())

    def test_quantize_at_best(self):
        """Plans, rounding and distillation go on, and the weights are those of a call that was never killed."""
        calibration = ["--calibration", self.text, "--sequences", "12", "--tokens", "32"]
        self.succeed("profile", self.model, "-o", "s.json", *calibration)
        arguments = ["quantize", self.model, "out", "--bpw", "5", "--effort", "best", "--learned-bits", "8", "--sensitivity",
                     "s.json", *calibration, "--eval-sequences", "2"]
        whole = ["scratch" if word == "out" else word for word in arguments]
        duration = self.time_of(*whole)
        for _ in self.kill_at_moments(arguments, duration):
            if self.out.exists():
                self.succeed("verify", self.out)
        found = self.succeed(*arguments)
        expected = self.succeed(*whole)
        for stage in ("candidates", "learned_rounding", "distillation"):
            self.assertEqual(found[stage], expected[stage])
        for name in ("model.safetensors", "config.json"):
            self.assertEqual((self.out / name).read_bytes(), (self.folder / "scratch" / name).read_bytes())
        self.assertEqual(self.debris(), [])

    def test_profile(self):
        """What was measured before the kill is not measured again, and the result is the same."""
        arguments = ["profile", self.model, "-o", "again.json", "--calibration", self.text, *CALIBRATION]
        duration = self.time_of(*("scratch.json" if word == "again.json" else word for word in arguments))
        for _ in self.kill_at_moments(arguments, duration):
            if (self.folder / "again.json").exists():
                self.succeed("plan", "again.json", "--bpw", "6", "-o", "again-plan.json")
        self.succeed(*arguments)
        self.assertEqual((self.folder / "again.json").read_bytes(), self.sensitivity.read_bytes())
        self.assertEqual(self.debris(), [])

    def test_tasks(self):
        data = write_tasks(self.folder / "data")
        arguments = ["eval", self.folder / "5", "--reference", self.model, "--tasks", "mmlu,hellaswag", "--data", data]
        whole = self.succeed(*arguments)
        duration = self.time_of(*arguments, "--journal", "scratch.journal")
        for _ in self.kill_at_moments([*arguments, "--journal", "tasks.journal"], duration):
            pass
        self.assertEqual(self.succeed(*arguments, "--journal", "tasks.journal"), whole)


if __name__ == "__main__":
    unittest.main()
