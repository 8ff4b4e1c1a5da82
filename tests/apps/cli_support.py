"""What the command line's tests share: the binary, a tiny model folder, and how to bend its tensors.

The binary's path stands in the environment variable OPTIQ_BINARY. Standard library only.
"""
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import unittest

BINARY = os.environ["OPTIQ_BINARY"]
GOLDENS = pathlib.Path(__file__).resolve().parent.parent / "goldens"
USAGE, BAD_INPUT, IMPOSSIBLE_BUDGET, OUT_OF_RESOURCES = 2, 3, 4, 5
TIMEOUT_SECONDS = 240
# The tiny models know 128 positions; 32 tokens a sequence keep every call below a second or two.
CALIBRATION = ["--sequences", "4", "--tokens", "32"]


def write_tokenizer(folder: pathlib.Path) -> None:
    """A token for each of as many characters, letters first, as the model has a vocabulary; <|end|> is the last."""
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    # U+0120 is how byte-level BPE writes a space.
    characters = ["\u0120"] + [chr(code) for code in range(126, 32, -1)][:vocabulary - 2]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": vocabulary - 1, "content": "<|end|>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False}
    model = {"type": "BPE", "vocab": {text: token for token, text in enumerate(characters)}, "merges": []}
    tokenizer = {"version": "1.0", "added_tokens": [end], "pre_tokenizer": byte_level, "decoder": byte_level,
                 "normalizer": None, "post_processor": None, "truncation": None, "padding": None, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))


def write_model(folder: pathlib.Path, golden: str = "llama-tied-biased") -> pathlib.Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDENS / "models" / golden / name, folder / name)
    write_tokenizer(folder)
    return folder


def write_text(path: pathlib.Path, words: int = 400) -> pathlib.Path:
    source = random.Random(7)
    path.write_text(" ".join("".join(source.choices("abcdefghij", k=source.randint(2, 8))) for _ in range(words)))
    return path


def write_tasks(folder: pathlib.Path) -> pathlib.Path:
    """A little MMLU of two subjects and a little HellaSwag, short enough for 128 positions."""
    for part, rows in (("dev", 5), ("test", 30)):
        (folder / "mmlu" / part).mkdir(parents=True)
        for subject in ("x", "y"):
            (folder / "mmlu" / part / f"{subject}_{part}.csv").write_text(
                "".join(f"{subject}{row},1,2,3,4,{row % 4}\n" for row in range(rows)))
    (folder / "hellaswag").mkdir()
    (folder / "hellaswag" / "hellaswag_val_full.txt").write_text(
        "".join(f"Label: do {row}\n{row % 4}\nab\ncde\nf\nghij\n" for row in range(12)))
    return folder


def read_safetensors(path: pathlib.Path) -> tuple[dict, bytearray]:
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8:8 + length]), bytearray(content[8 + length:])


def write_safetensors(path: pathlib.Path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


def weight_file_bytes(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def folder_content(folder: pathlib.Path) -> dict:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write_latency(path: pathlib.Path, profile: pathlib.Path, seconds_a_byte: float = 1e-9) -> pathlib.Path:
    """Every shape and format of the profile; groups of 32 take a tenth longer than their bytes say."""
    entries, shapes = [], set()
    for module in json.loads(profile.read_text())["modules"]:
        shape = (module["out_features"], module["in_features"])
        if shape in shapes:
            continue
        shapes.add(shape)
        for option in module["options"]:
            bits, group = option["bits"], option["group_size"]
            seconds = shape[0] * shape[1] * (bits / 8 + 4 / group) * seconds_a_byte * (1.1 if group == 32 else 1)
            entries.append({"out_features": shape[0], "in_features": shape[1], "bits": bits, "group_size": group,
                            "seconds": seconds, "spread_seconds": seconds / 100})
    path.write_text(json.dumps({"format": "optiq-latency", "version": 1, "fixed_seconds": 1e-6, "entries": entries,
                                "machine": {"cpu": "test", "isa": "generic", "threads": 1}}))
    return path


class CliTest(unittest.TestCase):
    """A fresh folder for each test, with the tiny model in `model` and text in `text`."""

    maxDiff = None

    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="optiq-cli-")
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        self.model = write_model(self.folder / "model")
        self.text = write_text(self.folder / "text.txt")

    def run_optiq(self, *arguments, **options) -> subprocess.CompletedProcess:
        return subprocess.run([BINARY, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              timeout=TIMEOUT_SECONDS, **{"stdin": subprocess.DEVNULL, **options})

    def succeed(self, *arguments, **options) -> dict:
        """Runs with --json; the object on standard output, which holds nothing else."""
        done = self.run_optiq(*arguments, "--json", **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.only_object(done.stdout)

    def only_object(self, stdout: str) -> dict:
        found = json.loads(stdout)  # raises where anything stands before or after the one value
        self.assertIsInstance(found, dict)
        return found

    def refuse(self, code: int, mentions, *arguments, **options) -> str:
        """The call ends with `code`, a message that holds every one of `mentions`, and changes no file."""
        before = self.all_files()
        done = self.run_optiq(*arguments, "--json", **options)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stderr}{done.stdout}")
        error = self.only_object(done.stdout)["error"]
        self.assertIn(error["message"], done.stderr)
        self.assertEqual(error["code"], {2: "usage", 3: "bad_input", 4: "impossible_budget",
                                         5: "out_of_resources"}[code])
        for word in [mentions] if isinstance(mentions, str) else mentions:
            self.assertIn(word, error["message"])
        self.assertEqual(self.all_files(), before, "something half-written stayed behind")
        return error["message"]

    def all_files(self) -> dict:
        return {path.relative_to(self.folder): path.stat().st_size if path.is_file() else None
                for path in self.folder.rglob("*")}

    def profile(self, *options, out: str = "sensitivity.json") -> pathlib.Path:
        self.succeed("profile", self.model, "-o", out, "--calibration", self.text, *CALIBRATION, *options)
        return self.folder / out

    def assert_fields(self, found: dict, fields: dict) -> None:
        """`fields` maps each name to its type; a float field may hold an integral number, never a NaN (null)."""
        for name, kind in fields.items():
            self.assertIn(name, found)
            self.assertIsInstance(found[name], (int, float) if kind is float else kind, name)
            self.assertNotIsInstance(found[name], bool, name)
