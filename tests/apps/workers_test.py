"""Several processes on this machine share a profile or an evaluation, by MLX's ring and by Open MPI: what comes out is
what one process gives."""
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import unittest

from cli_support import BAD_INPUT, BINARY, OUT_OF_RESOURCES, TIMEOUT_SECONDS, USAGE, CliTest, write_model, write_tasks, write_text

# Sequences go through a block together until they have 1024 tokens: three groups, the last one smaller.
GROUPS = ["--sequences", "80", "--tokens", "32"]


def free_ports(count: int) -> list:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


class Shared(CliTest):
    def setUp(self):
        super().setUp()
        write_text(self.text, words=1200)
        self.profiled = ["profile", self.model, "--calibration", self.text]

    def start(self, count: int, *arguments, of_last=None) -> list:
        """`count` processes in a ring; the last one with the arguments `of_last`, where there are some."""
        hostfile = self.folder / "hosts.json"
        hostfile.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
        self.addCleanup(lambda: hostfile.unlink(missing_ok=True))
        return [subprocess.Popen([BINARY, *map(str, of_last if of_last and rank == count - 1 else arguments), "--json"],
                                 cwd=self.folder, env={**os.environ, "OPTIQ_THREADS": "1", "MLX_HOSTFILE": str(hostfile), "MLX_RANK": str(rank)},
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for rank in range(count)]

    def ends(self, processes: list) -> list:
        """(exit code, standard output, standard error) of each."""
        ends = []
        for process in processes:
            out, error = process.communicate(timeout=TIMEOUT_SECONDS)
            ends.append((process.returncode, out, error))
        return ends

    def share(self, count: int, *arguments) -> dict:
        """All succeed; the first one's object, and the others are silent."""
        ends = self.ends(self.start(count, *arguments))
        for code, out, error in ends[1:]:
            self.assertEqual((code, out, error), (0, "", ""))
        self.assertEqual(ends[0][0], 0, ends[0][2])
        return self.only_object(ends[0][1])

    def fail_all(self, code: int, mentions, processes: list, joined: bool = True) -> None:
        """`joined`: they know each other, so that only the first one writes to standard output."""
        ends = self.ends(processes)
        for rank, end in enumerate(ends):
            self.assertEqual(end[0], code, ends)
            for word in [mentions] if isinstance(mentions, str) else mentions:
                self.assertIn(word, end[2], rank)
            if rank > 0 and joined:
                self.assertEqual(end[1], "")
        self.assertIn("error", self.only_object(ends[0][1]))

    def assert_same_profiles(self, one: str, other: str) -> None:
        for suffix in (".json", ".importance.safetensors"):
            self.assertEqual((self.folder / (one + suffix)).read_bytes(), (self.folder / (other + suffix)).read_bytes(), suffix)

    def same_profiles(self, counts, *options) -> None:
        self.succeed(*self.profiled, "-o", "one.json", *options)
        for count in counts:
            self.share(count, *self.profiled, "-o", "many.json", *options)
            self.assert_same_profiles("one", "many")
        self.assertFalse(list(self.folder.glob("*.journal")))


class Profiles(Shared):
    def test_fisher(self):
        for golden in ("llama-tied-biased", "llama"):
            shutil.rmtree(self.model)
            write_model(self.model, golden)
            self.same_profiles([2, 3], *GROUPS)

    def test_fisher_by_importance(self):
        self.same_profiles([2], "--encoder", "range", "--label-draws", "3", *GROUPS)

    def test_fisher_with_the_cache_and_within_memory(self):
        options = ["--kv", "--sequences", "48", "--tokens", "64"]
        self.same_profiles([2], *options)
        shutil.copy(self.folder / "one.json", self.folder / "unlimited.json")
        self.same_profiles([2], *options, "--max-memory", "500MB")
        self.assertEqual((self.folder / "one.json").read_bytes(), (self.folder / "unlimited.json").read_bytes())

    def test_mse(self):
        for encoder in ("gptq", "range"):
            self.same_profiles([2, 3], "--estimator", "mse", "--encoder", encoder, "--sequences", "17", "--tokens", "32")

    def test_kl(self):
        self.same_profiles([2], "--estimator", "kl", "--sequences", "3", "--tokens", "64", "--kv")

    def test_text_of_the_model(self):
        self.profiled = ["profile", self.model]
        self.same_profiles([2], *GROUPS)


class Evaluations(Shared):
    def setUp(self):
        super().setUp()
        self.profile()
        self.succeed("plan", "sensitivity.json", "--bpw", "5", "-o", "plan.json")
        self.succeed("encode", self.model, "plan.json", "packed")

    def same_evaluations(self, *options):
        arguments = ["eval", "packed", "--text", self.text, *options]
        whole = self.succeed(*arguments)
        for count in (2, 3):
            self.assertEqual(self.share(count, *arguments), whole)

    def test_perplexity(self):
        self.same_evaluations("--context", "64")

    def test_distance(self):
        self.same_evaluations("--context", "48", "--reference", self.model)
        self.same_evaluations("--context", "48", "--reference", self.model, "--windows", "2")

    def test_within_memory(self):
        self.same_evaluations("--context", "48", "--reference", self.model, "--max-memory", "500MB")

    def test_with_a_cache(self):
        self.same_evaluations("--context", "64", "--windows", "5", "--reference", self.model, "--kv-keys", "4", "--kv-values", "8")


    def test_tasks(self):
        data = write_tasks(self.folder / "data")
        arguments = ["eval", "packed", "--reference", self.model, "--tasks", "mmlu,hellaswag", "--data", data]
        whole = self.succeed(*arguments)
        for count in (2, 3):
            journal = self.folder / "tasks.journal"
            self.assertEqual(self.share(count, *arguments, "--journal", journal), whole)
            self.assertEqual(self.succeed(*arguments, "--journal", journal), whole)
            content = journal.read_bytes()
            journal.write_bytes(content[:len(content) // 2])  # as a kill leaves it
            self.assertEqual(self.share(count, *arguments, "--journal", journal), whole)
            self.assertEqual(journal.read_bytes(), content)
            journal.unlink()


class Refused(Shared):
    def test_verbs_that_are_not_shared(self):
        self.profile()
        before = self.all_files()
        for arguments in (["plan", "sensitivity.json", "--bpw", "5", "-o", "plan.json"], ["info", self.model],
                          ["quantize", self.model, "out", "--bpw", "5"]):
            self.fail_all(USAGE, ["expected one process", "2 workers"], self.start(2, *arguments), joined=False)
        (self.folder / "hosts.json").unlink()
        self.assertEqual(self.all_files(), before)

    def test_more_workers_than_groups(self):
        self.fail_all(USAGE, "3 groups", self.start(4, *self.profiled, "-o", "s.json", *GROUPS))
        self.assertFalse(list(self.folder.glob("s.*")))

    def test_other_options(self):
        arguments = [*self.profiled, "-o", "s.json", *GROUPS]
        self.fail_all(USAGE, "options", self.start(2, *arguments, of_last=[*arguments, "--label-draws", "3"]))

    def test_another_checkpoint(self):
        other = write_model(self.folder / "other", "llama")
        arguments = [*self.profiled, "-o", "s.json", *GROUPS]
        processes = self.start(2, *arguments, of_last=[other if word == self.model else word for word in arguments])
        self.fail_all(USAGE, "checkpoint", processes)

    def test_another_text(self):
        other = write_text(self.folder / "other.txt", words=300)
        arguments = ["eval", self.model, "--text", self.text, "--context", "64"]
        processes = self.start(2, *arguments, of_last=["eval", self.model, "--text", other, "--context", "64"])
        self.fail_all(USAGE, "text", processes)

    def test_an_error_of_one(self):
        """The first one reads the text; only the last one lacks its model."""
        arguments = [*self.profiled, "-o", "s.json", *GROUPS]
        missing = ["none.txt" if word == self.text else word for word in arguments]
        self.fail_all(BAD_INPUT, "none.txt", self.start(2, *missing))
        elsewhere = ["nowhere" if word == self.model else word for word in arguments]
        self.fail_all(BAD_INPUT, "nowhere", self.start(2, *arguments, of_last=elsewhere))
        self.assertFalse(list(self.folder.glob("s.*")))


class Lost(Shared):
    """Killed when some stages are in the journal, and others are not."""

    def setUp(self):
        super().setUp()
        self.arguments = [*self.profiled, "-o", "s.json", "--sequences", "96", "--tokens", "32", "--label-draws", "32"]
        self.succeed(*["whole.json" if word == "s.json" else word for word in self.arguments])
        self.journal = self.folder / "s.json.journal"

    def wait_for_a_stage(self, process: subprocess.Popen) -> None:
        """Until the journal holds more than the tokens: 4 bytes each."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while not self.journal.exists() or self.journal.stat().st_size < 2 * 4 * 96 * 32:
            self.assertLess(time.monotonic(), end)
            self.assertIsNone(process.poll(), "it ended before it could be killed")
            time.sleep(0.001)

    def kill_one_of_two(self, killed: int) -> tuple:
        processes = self.start(2, *self.arguments)
        self.wait_for_a_stage(processes[0])
        processes[killed].kill()
        return self.ends(processes)[1 - killed]

    def test_the_other_ends_and_any_number_goes_on(self):
        for killed, count in ((1, 1), (1, 2), (0, 1)):
            code, _, error = self.kill_one_of_two(killed)
            self.assertEqual(code, OUT_OF_RESOURCES, error)
            self.assertIn("another worker was lost", error)
            self.assertIn("s.json.journal keeps what was measured", error)
            self.assertTrue(self.journal.exists())
            held = self.journal.stat().st_size
            self.assertGreater(held, 4 * 96 * 32)
            self.share(count, *self.arguments) if count > 1 else self.succeed(*self.arguments)
            self.assert_same_profiles("s", "whole")
            self.assertFalse(self.journal.exists())
            (self.folder / "s.json").unlink()


@unittest.skipUnless(shutil.which("mpirun"), "needs Open MPI")
class OpenMpi(Lost):
    MPIRUN = ["mpirun", "-n", "2", "--oversubscribe"]
    ENVIRONMENT = {"OPTIQ_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def start_mpi(self, *arguments) -> subprocess.Popen:
        return subprocess.Popen([*self.MPIRUN, BINARY, *map(str, arguments), "--json"], cwd=self.folder,
                                env={**os.environ, **self.ENVIRONMENT}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def test_profile_and_evaluation(self):
        ((code, out, error),) = self.ends([self.start_mpi(*self.arguments)])
        self.assertEqual(code, 0, error)
        self.only_object(out)
        self.assert_same_profiles("s", "whole")
        arguments = ["eval", self.model, "--text", self.text, "--context", "64", "--reference", self.model]
        ((code, out, error),) = self.ends([self.start_mpi(*arguments)])
        self.assertEqual((code, self.only_object(out)), (0, self.succeed(*arguments)), error)

    def test_the_other_ends_and_any_number_goes_on(self):
        process = self.start_mpi(*self.arguments)
        self.wait_for_a_stage(process)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(children[-1]), signal.SIGKILL)
        ((code, _, _),) = self.ends([process])
        self.assertNotEqual(code, 0)
        self.assertTrue(self.journal.exists())
        self.succeed(*self.arguments)
        self.assert_same_profiles("s", "whole")

    def test_an_error_ends_all(self):
        ((code, out, error),) = self.ends([self.start_mpi("profile", self.folder / "nowhere", "-o", "s.json")])
        self.assertEqual(code, BAD_INPUT)
        self.assertIn("nowhere", self.only_object(out)["error"]["message"])
        self.assertIn("nowhere", error)


if __name__ == "__main__":
    unittest.main()
