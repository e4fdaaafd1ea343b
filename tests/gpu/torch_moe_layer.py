"""PyTorch's time of the MoE layers of `moebius bench moe-layer`, for comparison in the same run.

Router, sort, torch._grouped_mm twice, SwiGLU and combine, bf16, random weights, the same shapes.
Routers and inputs are the same numbers (cli/bench_gpu_moe.c, exec/cuda/random.cu), so that the same
experts are active, but for what rounding decides. Prints one line per cell: layer, tokens, active experts, milliseconds (median of 15); or,
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
    ("paper-lm-52b", 1024, 4096, 512, 2, 1.77),
]
TOKENS = [1, 16, 128, 1024, 4096]
INPUTS = 4
REPEATS = 15
ROUTER_SEED, SHIFT_SEED, INPUT_SEED = 2, 3, 10  # of the first input
ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64


def signed(word):
    """A 64-bit word as torch has it."""
    return (word + 2**63) % 2**64 - 2**63


def mix(key):
    """splitmix64_mix(), of a tensor."""
    step, first, second = (signed(number) for number in ODD)
    z = key + step
    z = (z ^ (z >> 30 & 2**34 - 1)) * first
    z = (z ^ (z >> 27 & 2**37 - 1)) * second
    return z ^ (z >> 31 & 2**33 - 1)


def normal_pairs(seed, count):
    """Pairs of normal deviates, f32 [count, 2]."""
    start = mix(torch.tensor(seed, device="cuda"))
    bits = mix(start + torch.arange(count, device="cuda"))
    u = ((bits & 2**32 - 1).float() + 1) * 2.0**-32
    angle = 6.2831853 * ((bits >> 32 & 2**32 - 1).float() * 2.0**-32)
    radius = torch.sqrt(-2 * torch.log(u.clamp(max=1)))
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)


def normals(rows, columns, deviation, seed):
    pairs = normal_pairs(seed, rows * columns // 2)
    return (deviation * pairs).to(torch.bfloat16).view(rows, columns)


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
        router = normals(experts, d, d**-0.5, ROUTER_SEED)
        shift = skew * normal_pairs(SHIFT_SEED, d)[:, 0]
        every = [(normals(TOKENS[-1], d, 1, INPUT_SEED + i).float() + shift).to(torch.bfloat16)
                 for i in range(INPUTS)]
        for tokens in TOKENS:
            inputs = [x[:tokens] for x in every]
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
