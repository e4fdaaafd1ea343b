#!/usr/bin/env python3
"""Does the CUDA backend compute what transformers and the CPU backend compute?

Runs `moebius forward` on the conformance fixtures and on trained checkpoints, on the CPU and on the
GPU in f32 and in bf16, and compares logits, choices of experts and cross-entropy:

    tests/gpu/agreement.py --moebius build/moebius --shared ../shared [--device cuda] > agreement.json

The table goes to stderr; exit status 1 when a bound is passed: f32 logits within 1e-3 of the
references and the CPU's choices; bf16 choices equal for 98 % of (token, layer, slot) and mean
cross-entropy within 0.01 of f32. Needs numpy.
"""
import argparse
import concurrent.futures
import itertools
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np

FIXTURES = ["deepseek_v2", "deepseek_v3", "gpt_oss", "mixtral", "nllb-moe", "olmoe", "phimoe",
            "qwen2_moe", "qwen3_moe", "switch_transformers"]
DTYPES = {"F32": np.float32, "I32": np.int32, "I64": np.int64}
MAX_LOGIT_DIFFERENCE = 1e-3
MIN_EQUAL_IDS = 0.98
MAX_CROSS_ENTROPY_DIFFERENCE = 0.01


def read_safetensors(path):
    """All f32 and integer tensors of a file, by name."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] not in DTYPES:
            continue
        start, end = entry["data_offsets"]
        array = np.frombuffer(data[start:end], DTYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors


class Runs:
    """`moebius forward` on one model and one token file, by device and compute type; JOBS at a time."""

    def __init__(self, moebius, device, jobs):
        self.moebius = moebius
        self.device = device
        self.processes = concurrent.futures.ThreadPoolExecutor(jobs)
        self.comparisons = concurrent.futures.ThreadPoolExecutor(jobs)

    def forward(self, device, compute, arguments):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out.safetensors")
            command = [self.moebius, "forward", *arguments, "--out", out, "--device", device]
            if device != "cpu":
                command += ["--compute", compute]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise SystemExit("agreement: " + done.stderr.strip())
            return read_safetensors(out)

    def all(self, arguments):
        """On the CPU, on the device in f32, on the device in bf16."""
        kinds = [("cpu", "f32"), (self.device, "f32"),
                 (self.device, "bf16" if self.device != "cpu" else "f32")]
        started = [self.processes.submit(self.forward, *kind, arguments) for kind in kinds]
        return [run.result() for run in started]

    def map(self, compare, *what):
        """A list of what COMPARE, which calls all(), says of each."""
        return list(self.comparisons.map(compare, *what))


def ids_of(tensors):
    return {name: array for name, array in tensors.items() if name.endswith(".expert_ids")}


def equal_ids(a, b):
    """(choices that are in both rows of a token, choices)"""
    same = total = 0
    for name, ids in ids_of(a).items():
        other = ids_of(b)[name]
        same += int((ids[:, :, None] == other[:, None, :]).any(2).sum())
        total += ids.size
    return same, total


def entropies(logits, tokens):
    """Of each token that follows another; LOGITS [rows, length, vocabulary]."""
    logits = logits.reshape(*tokens.shape, -1)[:, :-1].astype(np.float64)
    top = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    return log_sum - np.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0]


def cross_entropy(logits, tokens):
    return float(entropies(logits, tokens).mean())


def fixture(runs, shared, name):
    folder = os.path.join(shared, "conformance", name)
    reference = read_safetensors(os.path.join(folder, "reference.safetensors"))
    cpu, f32, bf16 = runs.all(["--model", folder, "--tokens",
                               os.path.join(folder, "reference.safetensors")])
    same, total = equal_ids(cpu, f32)
    same_bf16, _ = equal_ids(f32, bf16)
    difference = np.abs(f32["logits"].ravel() - reference["logits"].ravel()).max()
    return {"model": name, "against": "transformers", "f32_worst_logit_difference": float(difference),
            "f32_ids_equal_to_cpu": same, "ids": total, "bf16_ids_equal_share": same_bf16 / total}


def top_logits_difference(reference, prefix, logits):
    """Of the five largest logits of every token, which the reference holds in descending order."""
    wanted = reference.get(prefix + ".top5_logits", reference.get(prefix + ".logits_top5"))
    ours = -np.sort(-logits.reshape(len(wanted), -1), axis=1)[:, :5]
    return float(np.abs(ours - wanted).max())


def summed(rows, name):
    """One entry of several streams of a model."""
    total = sum(row["ids"] for row in rows)
    return {"model": name, "against": "transformers", "streams": len(rows),
            "f32_worst_logit_difference": max(row["difference"] for row in rows),
            "f32_ids_equal_to_cpu": sum(row["same"] for row in rows), "ids": total,
            "bf16_ids_equal_share": sum(row["same_bf16"] for row in rows) / total,
            "tokens": sum(row["entropies"].shape[1] for row in rows),
            **{name + "_cross_entropy": float(np.concatenate([row["entropies"][i] for row in rows])
                                              .mean())
               for i, name in enumerate(["cpu", "f32", "bf16"])}}


def stream(runs, arguments, reference, prefix):
    """One stream of the reference; its cross-entropies are of the tokens that logits stand for."""
    cpu, f32, bf16 = runs.all(arguments)
    same, total = equal_ids(cpu, f32)
    tokens = reference.get(prefix + ".decoder_input_ids", reference[prefix + ".input_ids"])[None]
    return {"difference": top_logits_difference(reference, prefix, f32["logits"]), "same": same,
            "same_bf16": equal_ids(f32, bf16)[0], "ids": total,
            "entropies": np.stack([entropies(run["logits"], tokens)[0] for run in (cpu, f32, bf16)])}


def decoder_model(runs, folder):
    path = os.path.join(folder, "reference.safetensors")
    reference = read_safetensors(path)
    prefixes = sorted(key[:-len(".input_ids")] for key in reference if key.endswith(".input_ids"))

    def compare(prefix):
        return stream(runs, ["--model", folder, "--tokens", path, "--key", prefix + ".input_ids"],
                      reference, prefix)

    return summed(runs.map(compare, prefixes), os.path.basename(folder))


def translation_model(runs, folder, most):
    """Sources and targets of the reference; its keys are pair.number.{input_ids, ...}."""
    path = os.path.join(folder, "reference.safetensors")
    reference = read_safetensors(path)
    prefixes = sorted(key[:-len(".input_ids")] for key in reference
                      if key.endswith(".input_ids") and "decoder" not in key)[:most]

    def compare(prefix):
        arguments = ["--model", folder, "--tokens", path, "--key", prefix + ".input_ids",
                     "--decoder-tokens", path, "--decoder-key", prefix + ".decoder_input_ids"]
        return stream(runs, arguments, reference, prefix)

    return summed(runs.map(compare, prefixes), os.path.basename(folder))


def lines_of(tensors, name):
    ids, ends = tensors[name + ".ids"], tensors[name + ".offsets"]
    return [ids[ends[i]:ends[i + 1]] for i in range(len(ends) - 1)]


def pairs_by_length(folder, source, target):
    """Pairs of evaluation lines of equal lengths, as the model wants them: [sources, targets], the
    largest groups first. What stands around a line is what the reference has around its own."""
    tensors = read_safetensors(os.path.join(folder, "eval_tokens.safetensors"))
    reference = read_safetensors(os.path.join(folder, "reference.safetensors"))
    like = "%s-%s.0." % (source, target)
    begin, end = reference[like + "input_ids"][:1], reference[like + "input_ids"][-1:]
    prompt = reference[like + "decoder_input_ids"][:2]
    groups = {}
    for a, b in zip(lines_of(tensors, source), lines_of(tensors, target)):
        groups.setdefault((len(a), len(b)), []).append(
            (np.concatenate([begin, a, end]), np.concatenate([prompt, b])))
    for group in sorted(groups.values(), key=len, reverse=True):
        yield [np.stack(side).astype(np.int32) for side in zip(*group)]


def translation_evaluation(runs, folder, groups):
    """Cross-entropy and choices on GROUPS groups of evaluation pairs, English to German."""

    def compare(pairs):
        sources, targets = pairs
        with tempfile.TemporaryDirectory() as scratch:
            paths = [os.path.join(scratch, name) for name in ("sources.npy", "targets.npy")]
            np.save(paths[0], sources)
            np.save(paths[1], targets)
            cpu, f32, bf16 = runs.all(["--model", folder, "--tokens", paths[0], "--decoder-tokens",
                                       paths[1], "--batch", "32"])
        same, total = equal_ids(cpu, f32)
        return {"difference": float(np.abs(cpu["logits"] - f32["logits"]).max()),
                "same": same, "same_bf16": equal_ids(f32, bf16)[0], "ids": total,
                "entropies": np.stack([entropies(run["logits"], targets).ravel()
                                       for run in (cpu, f32, bf16)])}

    some = itertools.islice(pairs_by_length(folder, "en", "de"), groups)
    return {**summed(runs.map(compare, some), os.path.basename(folder)), "against": "cpu"}


def evaluation(runs, folder, rows, length):
    """Cross-entropy and choices on ROWS requests of LENGTH evaluation tokens."""
    streams = read_safetensors(os.path.join(folder, "eval_tokens.safetensors"))
    names = sorted(streams)
    tokens = np.stack([streams[names[i % len(names)]][i * 7:][:length] for i in range(rows)])
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "tokens.npy")
        np.save(path, tokens.astype(np.int32))
        arguments = ["--model", folder, "--tokens", path, "--batch", "8"]
        cpu, f32, bf16 = runs.all(arguments)
    entropies = [cross_entropy(run["logits"], tokens) for run in (cpu, f32, bf16)]
    same, total = equal_ids(cpu, f32)
    return {"model": os.path.basename(folder), "against": "cpu", "tokens": rows * length,
            "f32_worst_logit_difference": float(np.abs(cpu["logits"] - f32["logits"]).max()),
            "f32_ids_equal_to_cpu": same, "ids": total,
            "bf16_ids_equal_share": equal_ids(f32, bf16)[0] / total,
            "cpu_cross_entropy": entropies[0], "f32_cross_entropy": entropies[1],
            "bf16_cross_entropy": entropies[2]}


def holds(entry, near_ties):
    """f32 on two devices may differ in a choice only where a tie is near."""
    limit = MAX_LOGIT_DIFFERENCE
    good = entry["f32_worst_logit_difference"] <= limit
    good &= entry["ids"] - entry["f32_ids_equal_to_cpu"] <= near_ties * entry["ids"]
    if "bf16_cross_entropy" in entry:
        good &= entry["bf16_ids_equal_share"] >= MIN_EQUAL_IDS
    if entry["against"] == "cpu":  # on evaluation tokens
        good &= (abs(entry["bf16_cross_entropy"] - entry["f32_cross_entropy"])
                 <= MAX_CROSS_ENTROPY_DIFFERENCE)
    return bool(good)


def entries(runs, options):
    fixtures = [name for name in FIXTURES
                if os.path.isdir(os.path.join(options.shared, "conformance", name))]
    yield from runs.map(lambda name: fixture(runs, options.shared, name), fixtures)
    for name in options.models:
        folder = name if os.path.isdir(name) else os.path.join(options.shared, "models", name)
        config = json.load(open(os.path.join(folder, "config.json")))
        if config.get("is_encoder_decoder"):
            yield translation_model(runs, folder, options.sentences)
            yield translation_evaluation(runs, folder, options.groups)
            continue
        yield decoder_model(runs, folder)
        yield evaluation(runs, folder, options.rows, 256)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--moebius", default="build/moebius")
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="*", default=["models/tiny-32x4"])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--sentences", type=int, default=40)
    parser.add_argument("--groups", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=6, help="forward passes at a time")
    options = parser.parse_args()
    found = []
    for entry in entries(Runs(options.moebius, options.device, options.jobs), options):
        entry["holds"] = holds(entry, near_ties=1e-4)
        found.append(entry)
        print(" ".join(f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}"
                       for key, value in entry.items()), file=sys.stderr)
    json.dump(found, sys.stdout, indent=1)
    return 0 if found and all(entry["holds"] for entry in found) else 1


if __name__ == "__main__":
    sys.exit(main())
