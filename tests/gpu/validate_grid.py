#!/usr/bin/env python3
"""Simulator = executor on the GPU, over a grid of plans: every residency event is compared.

For each batch size a trace is recorded on the device, then one `moebius validate` runs its steps
again under each policy, size, order, scope and predictor, in one executor. Prints JSON; the progress goes to
stderr. Exit status 1 when one plan does not agree.

    tests/gpu/validate_grid.py --model ../shared/models/lm-64x8 --slots 8 24 48
    tests/gpu/validate_grid.py --model shape:qwen3-30b-a3b --layers 2 --forced trace.db --slots 16 48 96
    tests/gpu/validate_grid.py --model shape:config.json --forced trace.db --slots 24 \
        --predictors previous-step transition
"""
import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile

POLICIES = ["lru", "fifo", "lfu", "lifo-inactive-first", "lfu-aged", "s3-fifo", "least-stale",
            "sieve"]
ORDERS = ["batch", "serial"]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr.strip()


def record(options, batch, out):
    command = [options.moebius, "record", "--model", options.model, "--device", options.device,
               "--batch", str(batch), "--out", out]
    if options.layers:
        command += ["--layers", str(options.layers)]
    if options.forced:
        command += ["--routing", "trace:" + options.forced]
    command += ["--tokens", options.tokens] if options.tokens else \
               ["--tokens", "random:%dx48" % (2 * batch)]
    command += ["--prompt-length", "48", "--requests", "1" if options.tokens else str(2 * batch),
                "--generate", str(options.generate), "--ignore-eos"]
    if "next-gate" in options.predictors or "pre-gate" in options.predictors:
        command += ["--predictions", "1"]
    code, _, error = run(command)
    if code != 0:
        raise SystemExit("validate_grid: " + error)


def write_plan(folder, plan):
    policy, slots, order, scope, predictor = plan
    path = os.path.join(folder, "%s-%d-%s-%s-%s.json" % plan)
    with open(path, "w") as file:
        json.dump({"moebius_plan": 1, "name": "%s %d %s %s %s" % plan,
                   "buffer": {"scope": scope, "slots": slots, "order": order, "evict": policy},
                   "prefetch": {"predictor": predictor, "max_inflight": 4}}, file)
    return path


def validate(options, trace, files):
    command = [options.moebius, "validate", "--trace", trace, "--model", options.model, "--device",
               options.device, "--json"]
    for path in files:
        command += ["--plan", path]
    if options.layers:
        command += ["--layers", str(options.layers)]
    if options.forced:
        command += ["--routing", "trace:" + trace]
    code, out, error = run(command)
    if code == 2 or not out:
        raise SystemExit("validate_grid: " + error)
    return json.loads(out)


def grid(options, folder):
    plans = list(itertools.product(options.policies, options.slots, options.orders, options.scopes,
                                   options.predictors))
    files = [write_plan(folder, plan) for plan in plans]
    for batch in options.batch:
        trace = os.path.join(folder, "batch%d.db" % batch)
        record(options, batch, trace)
        result = validate(options, trace, files)
        rows = result["plans"] if len(plans) > 1 else [result]
        for (policy, slots, order, scope, predictor), row in zip(plans, rows):
            yield {"policy": policy, "slots": slots, "order": order, "scope": scope,
                   "predictor": predictor, "batch": batch, "agreed": row["agreed"], "events": row["events"]["compared"],
                   "steps": row["steps"], "lookups": row["measured"]["lookups"],
                   "misses": row["measured"]["misses"], "device": result["device"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--moebius", default="build/moebius")
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--forced", help="a trace whose routing a synthetic shape is given")
    parser.add_argument("--tokens")
    parser.add_argument("--slots", type=int, nargs="+", required=True)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--generate", type=int, default=24)
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--orders", nargs="+", default=ORDERS)
    parser.add_argument("--scopes", nargs="+", default=["layer"])
    parser.add_argument("--predictors", nargs="+", default=["none"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        entries = list(grid(options, folder))
    agreed = sum(entry["agreed"] for entry in entries)
    print("%s: %d of %d plans agree, %d events" %
          (options.model, agreed, len(entries), sum(entry["events"] for entry in entries)),
          file=sys.stderr)
    json.dump({"model": options.model, "layers": options.layers, "forced": bool(options.forced),
               "plans": entries}, sys.stdout, indent=1)
    return 0 if entries and agreed == len(entries) else 1


if __name__ == "__main__":
    sys.exit(main())
