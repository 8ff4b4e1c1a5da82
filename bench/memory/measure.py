"""A command's peak memory, as the kernel counts it: shared by the scripts of this folder. Linux. Standard library only."""
import contextlib
import dataclasses
import json
import os
import pathlib
import struct
import subprocess
import threading
import time

FIELDS = ("RssAnon", "RssFile", "VmHWM")


@dataclasses.dataclass
class Run:
    code: int
    seconds: float
    peak_bytes: int  # the kernel's high-water mark of resident pages, anonymous and of files, at most 20 ms before the end
    anonymous_bytes: int  # peaks of samples, every 20 ms
    file_bytes: int
    stdout: str
    stderr: str


def sample(pid: int, peaks: dict, stop: threading.Event) -> None:
    while not stop.wait(0.02):
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        for line in status.splitlines():
            name, _, value = line.partition(":")
            if name in FIELDS:
                peaks[name] = max(peaks[name], int(value.split()[0]) * 1024)


def run(command: list, **options) -> Run:
    """Runs it to its end; the exit code is the caller's to judge."""
    begin = time.monotonic()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               **options)
    peaks, stop = dict.fromkeys(FIELDS, 0), threading.Event()
    sampler = threading.Thread(target=sample, args=(process.pid, peaks, stop))
    sampler.start()
    errors: list = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    stdout = process.stdout.read()
    _, status = os.waitpid(process.pid, 0)
    stop.set()
    sampler.join()
    reader.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    process.stderr.close()
    return Run(process.returncode, time.monotonic() - begin, peaks["VmHWM"],
               peaks["RssAnon"], peaks["RssFile"], stdout, errors[0])


def must_run(command: list, **options) -> Run:
    done = run(command, **options)
    if done.code != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {done.code}\n{done.stderr}")
    return done


CGROUP_ROOTS = ((pathlib.Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),  # version 1, then version 2
                (pathlib.Path("/sys/fs/cgroup"), "memory.max"))


@contextlib.contextmanager
def hard_limit(limit_bytes: int):
    """A control group whose processes the kernel kills when their memory, with the pages of files that are in use, does not fit.
    Gives what a child calls to enter it (preexec_fn); None where no group can be made: that takes root's rights."""
    group = None
    for root, limit_file in CGROUP_ROOTS:
        candidate = root / f"optiq-{os.getpid()}"
        try:
            candidate.mkdir()
        except OSError:
            continue
        try:
            (candidate / limit_file).write_text(str(limit_bytes))
            group = candidate
            break
        except OSError:
            candidate.rmdir()
    try:
        yield None if group is None else lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        if group is not None:
            group.rmdir()


def header_of(path: pathlib.Path) -> dict:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def cache_costs(blocks: int) -> dict:
    """Made-up costs of a KV cache: keys suffer more than values."""
    def options(cost: float) -> list:
        return [{"bits": bits, "group_size": 64, "cost": cost * 4.0 ** -bits, "standard_error": 0} for bits in (3, 4, 5, 6, 8)]
    return {"version": 1, "blocks": [{"keys": options(2e-4 * (1 + block % 3)), "values": options(1e-4)} for block in range(blocks)]}


def write_sensitivity(model: pathlib.Path, path: pathlib.Path, encoder: str = "range") -> pathlib.Path:
    """A profile of made-up costs (2^-2bits a weight), so that encoding can be measured without profiling."""
    config = json.loads((model / "config.json").read_text())
    tensors = {name: entry["shape"] for file in sorted(model.glob("*.safetensors"))
               for name, entry in header_of(file).items() if name != "__metadata__"}
    modules, fixed, parameters = [], [], 0
    for name, shape in sorted(tensors.items(), key=lambda item: ("layers" not in item[0], item[0])):
        parameters += shape[0] * (shape[1] if len(shape) > 1 else 1)
        if len(shape) == 1:
            fixed.append({"name": name, "dtype": "BF16", "shape": shape})
            continue
        layer = int(name.split(".")[2]) if ".layers." in name else -1
        options = [{"bits": bits, "group_size": 64, "cost": shape[0] * shape[1] * 4.0 ** -bits * 1e-9, "standard_error": 0}
                   for bits in (2, 3, 4, 5, 6, 8)]
        modules.append({"name": name.removesuffix(".weight"), "out_features": shape[0], "in_features": shape[1],
                        "layer": layer, "options": options})
    path.write_text(json.dumps({
        "format": "optiq-sensitivity", "version": 1, "estimator": "mse", "encoder": encoder,
        "model": {"name": str(model), "family": "llama", "parameters": parameters, "dtype": "BF16",
                  "layers": config["num_hidden_layers"], "kv_heads": config["num_key_value_heads"],
                  "head_dim": config["head_dim"]},
        "calibration": {"source": "none", "sequences": 1, "tokens": 2, "seed": 0, "label_draws": 0},
        "half_split_spearman": 0, "projection_scale": 0, "fixed": fixed, "modules": modules,
        "kv": cache_costs(config["num_hidden_layers"])}))
    return path
