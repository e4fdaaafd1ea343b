"""PyTorch's time of the MoE layers of `moebius bench moe-layer`, for comparison in the same run.

Router, sort, torch._grouped_mm twice, SwiGLU and combine, bf16, random weights, the same shapes and
skew. Prints one line per cell: layer, tokens, active experts, milliseconds (median of 15); or,
with --json, one document.
"""

import json
import sys

import torch

SHAPES = [  # name, d_model, d_ff, experts, top_k, skew
    ("mixtral-8x7b", 4096, 14336, 8, 2, 0.0),
    ("olmoe-1b-7b", 2048, 1024, 64, 8, 0.0),
    ("qwen3-30b-a3b", 2048, 768, 128, 8, 0.0),
    ("deepseek-v3", 7168, 2048, 256, 8, 0.0),
    ("paper-lm-52b", 1024, 4096, 512, 2, 2.0),
]
TOKENS = [1, 16, 128, 1024, 4096]
INPUTS = 4
REPEATS = 15


def layer(x, router, up, down, top_k):
    scores = torch.softmax((x @ router.T).float(), dim=-1)
    weights, ids = torch.topk(scores, top_k, dim=-1)
    weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
    order = torch.argsort(ids.view(-1), stable=True)
    offsets = torch.cumsum(torch.bincount(ids.view(-1), minlength=router.shape[0]), 0).int()
    tokens = order // top_k
    hidden = torch._grouped_mm(x[tokens], up.transpose(1, 2), offs=offsets)
    gate, linear = hidden.chunk(2, dim=-1)
    hidden = torch.nn.functional.silu(gate) * linear
    answer = torch._grouped_mm(hidden, down.transpose(1, 2), offs=offsets)
    answer = answer * weights.view(-1)[order, None]
    return torch.zeros_like(x).index_add_(0, tokens, answer), ids


def median_ms(inputs, *rest):
    times = []
    for _ in range(REPEATS + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for x in inputs:
            layer(x, *rest)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / len(inputs))
    return sorted(times[2:])[REPEATS // 2]


def main(as_json):
    torch.manual_seed(1)
    cells = []
    options = {"device": "cuda", "dtype": torch.bfloat16}
    for name, d, ff, experts, top_k, skew in SHAPES:
        up = torch.randn(experts, 2 * ff, d, **options) / d**0.5
        down = torch.randn(experts, d, ff, **options) / d**0.5
        router = torch.randn(experts, d, **options) / d**0.5
        shift = skew * torch.randn(d, **options)
        for tokens in TOKENS:
            inputs = [torch.randn(tokens, d, **options) + shift for _ in range(INPUTS)]
            active = sum(
                layer(x, router, up, down, top_k)[1].unique().numel() for x in inputs
            ) / len(inputs)
            time = median_ms(inputs, router, up, down, top_k)
            cells.append({"layer": name, "tokens": tokens, "active_experts": active,
                          "milliseconds": time})
            if not as_json:
                print(f"{name:14s} {tokens:5d} {active:6.0f} {time:9.4f}", flush=True)
        del up, down, router
        torch.cuda.empty_cache()
    if as_json:
        json.dump({"torch": torch.__version__, "device": torch.cuda.get_device_name(),
                   "cells": cells}, sys.stdout, indent=1)


with torch.inference_mode():
    main(sys.argv[1:] == ["--json"])
