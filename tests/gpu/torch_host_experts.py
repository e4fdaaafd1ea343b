#!/usr/bin/env python3
"""What PyTorch's CPU products take for the experts that `moebius bench host-experts` times: bf16, all processors, more
weights than the caches hold, one expert after the other. Prints a line of JSON for each cell as it is measured."""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

SHAPES = {"qwen3-30b-a3b": (2048, 768), "olmoe-1b-7b": (2048, 1024), "mixtral-8x7b": (4096, 14336)}
ROWS = (1, 4, 16, 64)
WEIGHT_BYTES = 768 << 20


def measure(d_model, d_ff, rows, repeats):
    n = WEIGHT_BYTES // (3 * 2 * d_model * d_ff) + 2
    first = torch.randn(2 * d_ff, d_model, dtype=torch.bfloat16) / d_model**0.5
    second = torch.randn(d_model, d_ff, dtype=torch.bfloat16) / d_ff**0.5
    experts = [(first.clone(), second.clone()) for _ in range(n)]
    at = 0
    for count in rows:
        x = torch.randn(count, d_model, dtype=torch.bfloat16)
        times = []
        for _ in range(repeats + 1):
            up_and_gate, down = experts[at % n]
            at += 1
            start = time.perf_counter()
            gate, up = F.linear(x, up_and_gate).chunk(2, dim=-1)
            F.linear(F.silu(gate) * up, down)
            times.append(time.perf_counter() - start)
        yield count, statistics.median(times[1:]) * 1e9


def main():
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    origin = {"torch": torch.__version__, "threads": torch.get_num_threads(), "active": 1}
    with torch.inference_mode():
        for name, (d_model, d_ff) in SHAPES.items():
            for rows, ns in measure(d_model, d_ff, ROWS, repeats):
                print(json.dumps({"shape": name, "rows": rows, "median_ns": ns, **origin}), flush=True)


if __name__ == "__main__":
    main()
