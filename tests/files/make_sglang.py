"""Writes the dumps in this folder as SGLang's expert distribution recorder writes them, with
torch.save(). 3 layers, the first dense; 6 logical experts, of which expert 2 has a second copy as
physical expert 6; room for 8 slots, 2 in use. python3 make_sglang.py FOLDER; needs torch."""

import sys

import torch

MAP = torch.tensor([[0, 1, 2, 3, 4, 5, 2]] * 3)


def topk(tokens, seed):
    ids = torch.full((3, tokens, 8), -1, dtype=torch.int32)
    for layer in (1, 2):
        for token in range(tokens):
            ids[layer, token, 0] = (seed + 3 * layer + token) % 7
            ids[layer, token, 1] = (seed + 3 * layer + token + 1 + token % 2) % 7
    return ids


def count(ids):
    counts = torch.zeros((3, 7), dtype=torch.int32)
    for layer in range(3):
        for expert in range(7):
            counts[layer, expert] = int((ids[layer] == expert).sum())
    return counts


def record(number, rank, ids=None, **more):
    ids_of_pass = topk(more["tokens"], number) if ids is None else ids
    data = dict(forward_pass_id=number, rank=rank, gatherer_key="primary")
    tokens = more.pop("tokens")
    if more:
        data.update(input_ids=[100 + i for i in range(tokens)], topk_ids_of_layer=ids_of_pass,
                    misc_objects=[], **more)
    data["global_physical_count"] = count(ids_of_pass)
    return data


folder = sys.argv[1]
per_token = [
    record(5, 1, tokens=5, positions=[0, 1, 2, 0, 1], extend_seq_lens=[3, 2], forward_mode=1),
    record(6, 1, tokens=2, positions=[3, 2], extend_seq_lens=None, forward_mode=2),
    record(9, 1, tokens=2, positions=[4, 3], extend_seq_lens=None, forward_mode=2),
]
torch.save(dict(records=per_token, last_physical_to_logical_map=MAP), folder + "/sglang_per_token.pt")
per_pass = [record(0, 0, tokens=5), record(1, 0, tokens=2)]
torch.save(dict(records=per_pass, last_physical_to_logical_map=MAP), folder + "/sglang_per_pass.pt")
logical = torch.zeros((2, 3, 6), dtype=torch.int32)
for step, data in enumerate(per_pass):
    for layer in range(3):
        for physical in range(7):
            logical[step, layer, MAP[layer, physical]] += data["global_physical_count"][layer, physical]
torch.save(dict(rank=0, logical_count=logical, average_utilization_rate_over_window=None),
           folder + "/sglang_stat.pt")
