#!/usr/bin/env python3
"""Simulated against measured times over a grid of plans and batches, with `moebius validate --hardware`.

  time_grid.py run --moebius M --model NAME --hardware hw.json --out DIR [--device cuda] [--batch 1 16] ...
      records a trace for each batch (or takes --trace), validates all plans on it, and keeps
      DIR/NAME-bBATCH.json
  time_grid.py summary DIR... [--json summary.json]
      a table of all of them, and the bounds that they meet or miss

Needs nothing but Python."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# Asked of the simulator: shares; the ranking's tau is at least.
BOUNDS = {"operator, mean": 0.03, "loads of 1 MiB or more, mean": 0.02, "step, mean": 0.03,
          "step, p95": 0.06, "throughput": 0.02, "time to first token": 0.05, "bias": 0.015,
          "memory": 0.02, "regret": 0.01}


def plans_of(slots, host, throttles):
    """Name and plan; the first is the one whose time line is drawn."""
    large, small = slots
    def plan(name, buffer=None, **more):
        return {"moebius_plan": 1, "name": name, "buffer": buffer, **more}
    def lru(n):
        return {"slots": n, "evict": "lru"}
    out = [plan(f"lru {large}", lru(large)), plan("all resident")]
    for evict in ("lru", "lifo-inactive-first", "lfu-aged"):
        for n in slots:
            if (evict, n) != ("lru", large):
                out.append(plan(f"{evict} {n}", {"slots": n, "evict": evict}))
    out.append(plan(f"lru {large}, prefetch", lru(large),
                    prefetch={"predictor": "synthetic:0.7,0.7", "max_inflight": 4}))
    if host:
        out.append(plan(f"host {large}", {**lru(large), "initial": "hottest"},
                        compute={"mode": "host"}))
    for gb in throttles:
        out.append(plan(f"lru {large}, {gb} GB/s", lru(large), link={"h2d_gb_per_s": gb}))
    return out


def run_command(command, timeout):
    start = time.time()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        print("time is over:", *command, file=sys.stderr)
        return None
    print(f"{time.time() - start:.1f} s rc {done.returncode}:", *command[:2], file=sys.stderr)
    if done.returncode not in (0, 1):
        print(done.stderr, file=sys.stderr)
        return None
    return done.stdout


def record(options, batch, path):
    prompt, output = options.lengths[0 if batch == 1 else 1]
    command = [options.moebius, "record", "--model", options.model, "--device", options.device,
               "--batch", str(batch), "--generate", str(output), "--ignore-eos", "--out", path]
    if options.tokens:
        command += ["--tokens", options.tokens, "--prompt-length", str(prompt), "--requests",
                    str(batch)]
    else:
        command += ["--tokens", f"random:{batch}x{prompt}"]
    if options.routing:
        command += ["--routing", options.routing]
    command += options.record
    return run_command(command, options.timeout) is not None


def run(options):
    os.makedirs(options.out, exist_ok=True)
    files = []
    for i, plan in enumerate(plans_of(options.slots, options.host, options.throttles)):
        files.append(os.path.join(options.out, f"plan{i}.json"))
        with open(files[-1], "w") as file:
            json.dump(plan, file)
    name = options.name or os.path.basename(
        options.model.rstrip("/")).replace("shape:", "").replace(":", "-")
    for i, batch in enumerate(options.batch):
        trace = options.trace[i] if options.trace else os.path.join(options.out,
                                                                    f"{name}-b{batch}.db")
        if not options.trace and not record(options, batch, trace):
            continue
        command = [options.moebius, "validate", "--trace", trace, "--model", options.model,
                   "--device", options.device, "--hardware", options.hardware, "--runs",
                   str(options.runs), "--json"]
        command += ["--routing", "trace:" + trace] if options.routing or options.trace else []
        command += ["--train", "0:1"] if options.host else []
        for file in files:
            command += ["--plan", file]
        text = run_command(command, options.timeout)
        if text:
            with open(os.path.join(options.out, f"{name}-b{batch}.json"), "w") as file:
                json.dump({"command": " ".join(command), "batch": batch, **json.loads(text)}, file)


# ---- summary ----

def cells_of(document):
    for row in document["plans"]:
        yield row["name"], row["time"], row["agreed"]


def share(value):
    return f"{100 * value:+.1f} %"


def print_cells(documents):
    print("| model | batch | plan | steps, ms predicted | measured | noise | step mean | p95 | "
          "first token | output token | throughput | memory | blamed |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for document in documents:
        for name, cell, _ in cells_of(document):
            ends = cell["end_to_end"]
            whole = ends["all"]
            steps = cell["steps"]["all"]
            def error(phase):
                return share(ends[phase]["error"]) if phase in ends else ""
            noise = "-" if whole["noise"] is None else f"{100 * whole['noise']:.1f} %"
            print("| {} | {} | {} | {:.2f} | {:.2f} | {} | {:.1f} % | {:.1f} % | {} | {} | {} "
                  "| {} | {} |".format(
                      document["model"], document["batch"], name, whole["predicted_ns"] / 1e6,
                      whole["measured_ns"] / 1e6, noise, 100 * steps["mean"],
                      100 * steps["p95"], error("prefill"), error("decode"),
                      share(1 / (1 + whole["error"]) - 1), share(cell["memory"]["error"]),
                      cell["blamed"]["op"] if cell["blamed"] else ""))


def mean(values):
    values = list(values)
    return statistics.fmean(values) if values else 0.0


def noise_of(stats):
    """The mean of what is known: of one run it is not."""
    values = [one["noise"] for one in stats if one["noise"] is not None]
    return mean(values) if values else "unknown"


def load_bytes(row):
    counts = row["measured"]
    return counts["bytes_loaded"] / counts["loads"] if counts["loads"] else 0


def summarise(documents):
    """Each figure of BOUNDS, the mean over all cells but for p95, bias and ranking."""
    cells = [cell for document in documents for _, cell, _ in cells_of(document)]
    ops = [stats for cell in cells for op, stats in cell["ops"].items() if op != "loads"]
    loads = [row["time"]["ops"]["loads"] for document in documents for row in document["plans"]
             if "loads" in row["time"]["ops"] and load_bytes(row) >= 1 << 20]
    ends = [cell["end_to_end"] for cell in cells]
    weight = sum(stats["measured_ns"] for stats in ops)
    return {
        "cells": len(cells),
        "decisions agreed": all(agreed for d in documents for _, _, agreed in cells_of(d)),
        "operator, mean": mean(stats["mean"] for stats in ops),
        "operator, mean by time": sum(s["mean"] * s["measured_ns"] for s in ops) / weight,
        "operator, of whole runs": mean(abs(s["predicted_ns"] / s["measured_ns"] - 1)
                                        for s in ops),
        "operator, noise": noise_of(ops),
        "loads of 1 MiB or more, mean": mean(stats["mean"] for stats in loads),
        "step, mean": mean(cell["steps"]["all"]["mean"] for cell in cells),
        "step, p95": mean(cell["steps"]["all"]["p95"] for cell in cells),
        "step, worst": max(cell["steps"]["all"]["worst"] for cell in cells),
        "throughput": mean(abs(1 / (1 + end["all"]["error"]) - 1) for end in ends),
        "time to first token": mean(abs(end["prefill"]["error"]) for end in ends
                                    if "prefill" in end),
        "output token": mean(abs(end["decode"]["error"]) for end in ends if "decode" in end),
        "bias": abs(mean(end["all"]["error"] for end in ends)),
        "noise": noise_of(end["all"] for end in ends),
        "memory": max(abs(cell["memory"]["error"]) for cell in cells),
        "tau, least": min(document["ranking"]["kendall_tau"] for document in documents),
        "pairs of plans": sum(document["ranking"]["pairs"] for document in documents),
        "pairs that differ": sum(document["ranking"]["distinct_pairs"] for document in documents),
        "regret": max(document["ranking"]["regret"] for document in documents)}


def disturbances(documents):
    """How far others disturbed the host's processor: runs of all cells, and how long its thread took
    beside what it took when each model was calibrated. Nothing of it chooses what is counted above."""
    told = [cell["processor"] for document in documents for _, cell, _ in cells_of(document)
            if "processor" in cell]
    if not told:
        return {}
    slow = [processor["slow"] for processor in told if processor["slow"] is not None]
    return {
        "runs": sum(processor["runs"] for processor in told),
        "runs, measured again": sum(processor["again"] for processor in told),
        "runs, disturbed all the same": sum(processor["disturbed"] for processor in told),
        "host, as when calibrated": f"{min(slow):.2f} to {max(slow):.2f} times" if slow else "unknown"}


def without_layers(document):
    """Layers are many and alike: what is kept of a run is the rest."""
    rows = [{**row, "time": {k: v for k, v in row["time"].items() if k != "layers"}}
            for row in document["plans"]]
    return {**document, "plans": rows}


def summary(options):
    documents = []
    for folder in options.folders:
        for name in sorted(os.listdir(folder)):
            if name.endswith(".json") and not name.startswith("plan"):
                with open(os.path.join(folder, name)) as file:
                    documents.append(json.load(file))
    documents = [document for document in documents if "ranking" in document]
    print_cells(documents)
    figures = {**summarise(documents), **disturbances(documents)}
    print()
    for key, value in figures.items():
        bound = BOUNDS.get(key)
        text = f"{100 * value:.2f} %" if isinstance(value, float) and key != "tau, least" else value
        print(f"{key}: {text}" + (f" (asked: {100 * bound:g} %, "
                                  f"{'met' if value <= bound else 'missed'})" if bound else ""))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"summary": figures, "bounds": BOUNDS,
                       "documents": [without_layers(document) for document in documents]}, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    grid = commands.add_parser("run")
    grid.add_argument("--moebius", default="build/moebius")
    grid.add_argument("--model", required=True)
    grid.add_argument("--hardware", required=True)
    grid.add_argument("--out", required=True)
    grid.add_argument("--device", default="cuda")
    grid.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    grid.add_argument("--runs", type=int, default=5)
    grid.add_argument("--slots", type=int, nargs=2, default=[96, 32], metavar=("LARGE", "SMALL"))
    grid.add_argument("--throttles", type=float, nargs="*", default=[])
    grid.add_argument("--host", action="store_true", help="a plan that computes on the host too")
    grid.add_argument("--trace", nargs="+", help="one of each batch, whose routing is forced")
    grid.add_argument("--name", help="of the files of results (default: the model's)")
    grid.add_argument("--tokens", help="file of token ids (default: random ones)")
    grid.add_argument("--routing", help="forced while recording and validating: zipf:1")
    grid.add_argument("--lengths", type=lambda text: tuple(map(int, text.split("x"))), nargs=2,
                      default=[(128, 16), (64, 6)], metavar=("ALONE", "BATCH"),
                      help="prompt x output tokens, of batch 1 and of others")
    grid.add_argument("--record", nargs="*", default=[], help="more options of record")
    grid.add_argument("--timeout", type=float, default=120)
    grid.set_defaults(call=run)
    table = commands.add_parser("summary")
    table.add_argument("folders", nargs="+")
    table.add_argument("--json")
    table.set_defaults(call=summary)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
