#!/usr/bin/env python3
"""The choices of `optiq eval --tasks` beside those of lm-evaluation-harness, question by question.

usage: lm_eval_parity.py MODEL DATA [OPTIQ] [--limit N] [--keep FILE] [--device cuda] [--batch-size N]

The harness's own task definitions, prompt building and scoring run, over local files instead of the Hub's: MODEL is
loaded by transformers in f32. N questions of each task are taken as optiq takes them. --keep holds the harness's answers,
so that the two can run at different times, and the harness (without OPTIQ) on a GPU. Wants requirements-lm-eval.txt.
"""
import argparse
import bz2
import csv
import json
import pathlib
import subprocess
import tempfile


def spread(items: list, limit: int) -> list:
    """As optiq spreads a limit: every n/limit-th."""
    count = min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def read_mmlu(path: pathlib.Path) -> list:
    subject = path.stem.rsplit("_", 1)[0]
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [{"id": f"{subject}/{number}", "subject": subject, "question": r[0], "choices": r[1:5], "answer": int(r[5])}
            for number, r in enumerate(rows)]


def read_hellaswag(path: pathlib.Path) -> list:
    lines = bz2.open(path, "rt", encoding="utf-8", newline="").read().split("\n")
    questions = []
    for number, first in enumerate(range(0, len(lines) - 5, 6)):
        label, context = lines[first].split(": ", 1)
        questions.append({"id": f"hellaswag/{number}", "activity_label": label, "ctx_a": context, "ctx_b": "",
                          "endings": lines[first + 2:first + 6], "label": lines[first + 1]})
    return questions


def make_task(definition: pathlib.Path, folder: pathlib.Path, splits: dict, **changes):
    from lm_eval import utils
    from lm_eval.api.task import ConfigurableTask

    config = utils.load_yaml_config(yaml_path=str(definition), mode="full")
    files = {}
    for split, rows in splits.items():
        files[split] = str(folder / f"{definition.stem}.{split}.jsonl")
        pathlib.Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config.update(dataset_path="json", dataset_name=None, dataset_kwargs={"data_files": files}, **changes)
    for key in ("tag", "task_alias", "group"):
        config.pop(key, None)
    return ConfigurableTask(config=config)


def harness_tasks(data: pathlib.Path, limit: int, folder: pathlib.Path) -> list:
    import lm_eval

    definitions = pathlib.Path(lm_eval.__file__).parent / "tasks"
    questions = []
    for path in sorted((data / "mmlu/test").glob("*.csv")):
        questions += read_mmlu(path)
    chosen = spread(questions, limit)
    tasks = []
    for subject in sorted({question["subject"] for question in chosen}):
        tasks.append(make_task(definitions / f"mmlu/default/mmlu_{subject}.yaml", folder,
                               {"dev": read_mmlu(data / f"mmlu/dev/{subject}_dev.csv"),
                                "test": [q for q in chosen if q["subject"] == subject]}, num_fewshot=5))
    hellaswag = spread(read_hellaswag(data / "hellaswag/hellaswag_val_full.txt.bz2"), limit)
    tasks.append(make_task(definitions / "hellaswag/hellaswag.yaml", folder, {"validation": hellaswag},
                           training_split=None, num_fewshot=0))
    return tasks


def harness_answers(model: str, data: pathlib.Path, limit: int, device: str, batch_size: int) -> dict:
    """id → {"log_likelihoods", "lengths"}."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    with tempfile.TemporaryDirectory() as folder:
        tasks = harness_tasks(data, limit, pathlib.Path(folder))
        harness = HFLM(pretrained=model, device=device, dtype="float32", batch_size=batch_size)
        found = lm_eval.simple_evaluate(model=harness, tasks=tasks, bootstrap_iters=0, log_samples=True)
    answers = {}
    for samples in found["samples"].values():
        for sample in samples:
            choices = sample["doc"]["choices"] if "query" in sample["doc"] else "ABCD"
            answers[sample["doc"]["id"]] = {"log_likelihoods": [float(r[0]) for r in sample["filtered_resps"]],
                                            "lengths": [len(choice) for choice in choices]}
    return answers


def argmax(values: list) -> int:
    return max(range(len(values)), key=lambda i: values[i])


def compare(ours: list, theirs: dict) -> dict:
    same = same_normalised = 0
    largest = 0.0
    for answer in ours:
        other = theirs[answer["id"]]
        scores = other["log_likelihoods"]
        largest = max(largest, max(abs(a - b) for a, b in zip(answer["log_likelihoods"], scores)))
        same += answer["choice"] == argmax(scores)
        same_normalised += answer["normalised_choice"] == argmax([s / n for s, n in zip(scores, other["lengths"])])
    return {"questions": len(ours), "same": same, "same_normalised": same_normalised, "largest_difference": largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("optiq", nargs="?")
    parser.add_argument("--limit", type=int, default=250)
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.keep and arguments.keep.exists():
        theirs = json.loads(arguments.keep.read_text())
    else:
        theirs = harness_answers(arguments.model, arguments.data, arguments.limit, arguments.device,
                                  arguments.batch_size)
        if arguments.keep:
            arguments.keep.write_text(json.dumps(theirs))
    if not arguments.optiq:
        return
    done = subprocess.run([arguments.optiq, "eval", arguments.model, "--tasks", "mmlu,hellaswag", "--data",
                           str(arguments.data), "--limit", str(arguments.limit), "--json"],
                          check=True, stdout=subprocess.PIPE, text=True)
    for name, task in json.loads(done.stdout)["tasks"].items():
        print(name, json.dumps(compare(task["answers"], theirs)))


if __name__ == "__main__":
    main()
