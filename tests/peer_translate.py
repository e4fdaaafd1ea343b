#!/usr/bin/env python3
"""Greedy (or beam) translation by transformers, to compare with `moebius record --output`.

    tests/peer_translate.py --model DIR --tokens FILE --key en --prepend 4 --append 2 \\
        --decoder-prompt 2,5 --generate 60 --requests 200 --out peer.jsonl
    moebius record --model DIR --tokens FILE --key en --prepend 4 --append 2 \\
        --decoder-prompt 2,5 --generate 60 --requests 200 --out t.db --output ours.jsonl
    tests/peer_translate.py --compare ours.jsonl peer.jsonl

Needs torch, transformers and safetensors, nothing else of this project. transformers 5.17 takes the
one-hot mask that NLLB-MoE's router returns for expert ids; here each sparse FFN computes what the
model was published with: the two best experts by softmax, their weights divided by their sum, each
expert's output times 1 - moe_token_dropout, nothing dropped. Weights are widened to f32. Every
sentence runs by itself, without padding.
"""

import argparse
import json
import sys


def parse_ids(text):
    return [int(part) for part in text.split(",")] if text else []


def read_lines(path, key, count):
    from safetensors.torch import load_file

    tensors = load_file(path)
    ids = tensors[key + ".ids"].tolist()
    offsets = tensors[key + ".offsets"].tolist()
    lines = [ids[first:end] for first, end in zip(offsets, offsets[1:])]
    return lines[:count] if count else lines


def mended_forward(config):
    """A forward for sparse FFNs that asks the classifier itself and sums the two experts' outputs."""
    import torch

    def forward(self, hidden_states, *unused, **also_unused):
        flat = hidden_states.reshape(-1, hidden_states.shape[-1]).float()
        scores = torch.softmax(self.router.classifier(flat).float(), dim=-1)
        weights, ids = torch.topk(scores, 2, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        total = torch.zeros_like(flat)
        for expert in ids.unique().tolist():
            token, slot = torch.where(ids == expert)
            output = self.experts[f"expert_{expert}"](flat[token])
            output = output * (1 - config.moe_token_dropout)
            total.index_add_(0, token, output * weights[token, slot, None])
        return total.reshape(hidden_states.shape)

    return forward


def mend(model):
    """Replaces the forward of every sparse FFN, in the form that its caller expects."""
    import types

    import transformers

    forward = mended_forward(model.config)
    # transformers 4 returns (hidden states, router outputs), 5 the hidden states alone.
    pair = int(transformers.__version__.split(".")[0]) < 5
    mended = 0

    def wrapped(self, *arguments, **named):
        output = forward(self, *arguments, **named)
        return (output, (None, None)) if pair else output

    for module in model.modules():
        if hasattr(module, "router") and hasattr(module, "experts"):
            module.forward = types.MethodType(wrapped, module)
            mended += 1
    if mended == 0:
        sys.exit("peer_translate: the model has no sparse FFN")
    return mended


def generate_greedy(model, source, prompt, most, ends):
    import torch

    encoder = model.get_encoder()(input_ids=source, return_dict=True)
    tokens = list(prompt)
    cache = None
    fed = torch.tensor([tokens], device=source.device)
    for _ in range(most):
        output = model(
            encoder_outputs=encoder,
            decoder_input_ids=fed,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        cache = output.past_key_values
        best = int(output.logits[0, -1].argmax())
        tokens.append(best)
        if best in ends:
            break
        fed = torch.tensor([[best]], device=source.device)
    return tokens[len(prompt):]


def generate_beams(model, source, prompt, most, beams):
    import torch

    output = model.generate(
        input_ids=source,
        decoder_input_ids=torch.tensor([prompt], device=source.device),
        num_beams=beams,
        do_sample=False,
        early_stopping=False,
        max_new_tokens=most,
    )
    return output[0].tolist()[len(prompt):]


def translate(arguments):
    import torch
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(arguments.model, dtype=torch.float32)
    model = model.to(arguments.device).eval()
    layers = mend(model)
    end = model.config.eos_token_id
    ends = set(end if isinstance(end, list) else [end])
    lines = read_lines(arguments.tokens, arguments.key, arguments.requests)
    prompt = parse_ids(arguments.decoder_prompt)
    print(f"{layers} sparse FFNs mended, {len(lines)} sentences", file=sys.stderr)
    with torch.no_grad(), open(arguments.out, "w", encoding="utf-8") as out:
        for line in lines:
            ids = parse_ids(arguments.prepend) + line + parse_ids(arguments.append)
            source = torch.tensor([ids], device=arguments.device)
            if arguments.beam > 1:
                tokens = generate_beams(model, source, prompt, arguments.generate, arguments.beam)
            else:
                tokens = generate_greedy(model, source, prompt, arguments.generate, ends)
            out.write(json.dumps({"label": arguments.key, "tokens": tokens}) + "\n")


def compare(ours, theirs):
    """Prints where two files differ; 0 when they are equal."""
    with open(ours, encoding="utf-8") as a, open(theirs, encoding="utf-8") as b:
        pairs = list(zip(a.readlines(), b.readlines(), strict=True))
    differing = 0
    for number, (left, right) in enumerate(pairs):
        left, right = json.loads(left)["tokens"], json.loads(right)["tokens"]
        if left != right:
            differing += 1
            at = next((i for i, (x, y) in enumerate(zip(left, right)) if x != y),
                      min(len(left), len(right)))
            print(f"sentence {number}: differs from token {at} on: {left[at:]} and {right[at:]}")
    print(f"{len(pairs) - differing} of {len(pairs)} sentences are equal")
    return 1 if differing else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compare", nargs=2, metavar="FILE")
    parser.add_argument("--model")
    parser.add_argument("--tokens", help="safetensors with KEY.ids and KEY.offsets")
    parser.add_argument("--key", default="en")
    parser.add_argument("--prepend", default="")
    parser.add_argument("--append", default="")
    parser.add_argument("--decoder-prompt", default="2")
    parser.add_argument("--generate", type=int, default=60)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    if arguments.compare:
        return compare(*arguments.compare)
    if not (arguments.model and arguments.tokens and arguments.out):
        parser.error("--model, --tokens and --out are needed")
    translate(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
