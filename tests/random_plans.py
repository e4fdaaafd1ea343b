#!/usr/bin/env python3
"""Random plans: does the executor decide what the simulator predicts?

Draws plans over every eviction policy, predictor, replay order, scope, kind of budget, place of a
miss and gating, runs each over a trace with `moebius validate`, and stops after SECONDS. Exit status
1 when a plan did not hold; its seed and its JSON are printed, and `--seed` runs it again.

    moebius record --model DIR --tokens random:8x12 --batch 4 --generate 6 --ignore-eos \\
        --scores all --predictions 1 --out trace.db
    python3 tests/random_plans.py build/moebius trace.db --model DIR --seconds 600
"""
import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time

EVICT = ("fifo lifo lifo-inactive-first lru mru lfu lfu-resident lfu-aged clock sieve s3-fifo arc "
         "least-stale cost-aware static ema-score random belady belady-admit").split()
PREDICTORS = ("frequency previous-step transition next-gate activation-match:4 pre-gate oracle:1 "
              "oracle:2 synthetic:0.7,0.5").split()
NEED_FUTURE = ("belady", "pre-gate", "oracle", "synthetic")


class Layer:
    def __init__(self, row):
        self.key, self.experts, self.expert_bytes = str(row[0]), row[1], row[2]


def draw_budget(draw, layers, buffer):
    """Sets the size. Returns the slots that every layer has at least, and whether it is learnt."""
    by_layer = buffer["scope"] == "layer"
    most = max(layer.experts for layer in layers)
    total = most if by_layer else sum(layer.experts for layer in layers)
    size = draw.choice([1, 2, draw.randint(1, total), total])
    kind = draw.choice(["slots", "bytes", "table", "skew", "optimal"] if by_layer else
                       ["slots", "bytes"])
    if kind == "bytes":
        buffer["bytes"] = size * max(layer.expert_bytes for layer in layers) + draw.choice([0, 99])
    elif kind == "table":
        buffer["budget"] = {layer.key: draw.randint(1, layer.experts) for layer in layers}
        return min(buffer["budget"].values()), False
    else:
        buffer["slots"] = size
        if kind != "slots":
            buffer["budget"] = kind
    return size if by_layer else size // len(layers), kind in ("skew", "optimal")


def draw_lists(draw, layers, most):
    return {layer.key: draw.sample(range(layer.experts), draw.randint(0, min(most, layer.experts)))
            for layer in layers}


def draw_prefetch(draw, plan):
    """Returns whether a table is learnt."""
    predictor = draw.choice(PREDICTORS)
    plan["prefetch"] = {"predictor": predictor, "max_inflight": draw.choice([1, 2, 5, 100])}
    if predictor.split(":")[0] in ("frequency", "previous-step", "transition", "synthetic"):
        plan["prefetch"]["distance"] = draw.randint(1, 3)
    if draw.random() < 0.4:
        plan["prefetch"]["experts"] = draw.randint(1, 6)
    if predictor in ("frequency", "transition") and draw.random() < 0.4:
        plan["prefetch"]["table"] = "trained"
        return True
    return False


def draw_compute(draw, layers, plan):
    mode = draw.choice(["host", "host" if plan["buffer"]["order"] == "serial" else "split"])
    plan["compute"] = {"mode": mode}
    if mode == "split":
        plan["compute"]["host_ns"] = {
            layer.key: [[1, draw.randint(1, 999)], [8, draw.randint(1000, 9000)]]
            for layer in layers}
        plan["compute"]["load_ns"] = {layer.key: draw.randint(100, 5000) for layer in layers}


def draw_plan(draw, layers):
    """A plan, and whether it leaves something to be learnt."""
    buffer = {"scope": draw.choice(["layer", "device"]), "evict": draw.choice(EVICT),
              "order": draw.choice(["serial", "batch", "staged"])}
    plan = {"moebius_plan": 1, "seed": draw.randint(0, 9), "buffer": buffer}
    room, learns = draw_budget(draw, layers, buffer)
    knows_future = buffer["evict"].startswith("belady")
    hot = draw_lists(draw, layers, room)
    if buffer["evict"] == "static":
        buffer["hot"] = draw.choice(["hottest", hot])
        learns = learns or buffer["hot"] == "hottest"
    if not knows_future and draw.random() < 0.4:
        given = buffer["evict"] == "static" and buffer["hot"] != "hottest"
        buffer["initial"] = hot if given else "hottest"
        learns = learns or not given
    if not knows_future and draw.random() < 0.6:
        learns = draw_prefetch(draw, plan) or learns
    if not knows_future and draw.random() < 0.35:
        draw_compute(draw, layers, plan)
    if draw.random() < 0.2:
        plan["gating"] = {"mode": "static", "capacity_factor": draw.choice([0.05, 0.3, 1]),
                          "dispatch": draw.choice(["mask", "padded"])}
    return plan, learns


def needs_future(plan):
    names = plan["buffer"]["evict"], plan.get("prefetch", {}).get("predictor", "")
    return any(name.startswith(NEED_FUTURE) for name in names)


def run_plan(arguments, draw, plan, learns, path):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(plan, file)
    command = [arguments.program, "validate", "--trace", arguments.trace, "--plan", path,
               "--threads", "1"]
    if arguments.model:
        command += ["--model", arguments.model]
    if needs_future(plan) or draw.random() < 0.4:
        command += ["--routing", "trace:" + arguments.trace]
    if learns:
        command += ["--train", draw.choice(["0:0.5", "0.25:0.75", "0:1"])]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("program")
    parser.add_argument("trace", help="with all scores and predictions")
    parser.add_argument("--model", help="default: the trace's")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of the first plan")
    arguments = parser.parse_args()
    database = sqlite3.connect(arguments.trace)
    layers = [Layer(row) for row in
              database.execute("SELECT layer, experts, expert_bytes FROM layer ORDER BY layer")]
    database.close()
    end = time.monotonic() + arguments.seconds
    seed, held, refused, wrong = arguments.seed, 0, {}, 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            draw = random.Random(seed)
            plan, learns = draw_plan(draw, layers)
            run = run_plan(arguments, draw, plan, learns, os.path.join(folder, "plan.json"))
            if run.returncode == 0:
                held += 1
            elif run.returncode == 2:
                refused.setdefault(run.stderr.strip(), seed)
            else:
                wrong += 1
                print(f"seed {seed}: status {run.returncode}\n{json.dumps(plan)}\n{run.stdout}"
                      f"{run.stderr}", flush=True)
            seed += 1
    print(f"{held} plans held, {wrong} did not; {seed - arguments.seed - held - wrong} refused:")
    for reason, first in refused.items():
        print(f"  seed {first}: {reason}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
