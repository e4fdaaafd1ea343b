"""Captures tiny random models of every architecture while transformers generates with them, and
compares each captured number with what the model's own routers returned.

    python3 tests/peer_capture.py OUT_FOLDER [--device cuda] [--moebius build/moebius]

Needs torch and transformers 5. The traces stay in OUT_FOLDER; with --moebius each is also put
through `moebius check` and `moebius info`. Ends with one line per architecture; exit status 1 when
one of them differs."""

import argparse
import os
import sqlite3
import struct
import subprocess
import sys
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "capture"))
import moebius_capture  # noqa: E402

SMALL = dict(vocab_size=160, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128)
LATENT = dict(SMALL, intermediate_size=56, moe_intermediate_size=24, n_routed_experts=16,
              num_experts_per_tok=4, first_k_dense_replace=1, kv_lora_rank=24, qk_nope_head_dim=16,
              qk_rope_head_dim=8, v_head_dim=12, num_key_value_heads=4)
SEQ2SEQ = dict(vocab_size=160, d_model=48, num_experts=8, expert_capacity=64)

ARCHITECTURES = {
    "mixtral": dict(SMALL, intermediate_size=40, num_local_experts=8, num_experts_per_tok=2),
    "olmoe": dict(SMALL, intermediate_size=24, num_experts=16, num_experts_per_tok=4),
    "qwen2_moe": dict(SMALL, intermediate_size=56, moe_intermediate_size=24,
                      shared_expert_intermediate_size=40, num_experts=16, num_experts_per_tok=4),
    "qwen3_moe": dict(SMALL, intermediate_size=56, moe_intermediate_size=24, head_dim=16,
                      num_experts=16, num_experts_per_tok=4, decoder_sparse_step=2),
    "deepseek_v2": dict(LATENT, n_shared_experts=2, q_lora_rank=None, topk_method="greedy",
                        n_group=1, topk_group=1),
    "deepseek_v3": dict(LATENT, n_shared_experts=1, q_lora_rank=32, n_group=4, topk_group=2),
    "gpt_oss": dict(SMALL, intermediate_size=48, head_dim=16, num_local_experts=8,
                    num_experts_per_tok=2, sliding_window=8),
    "phimoe": dict(SMALL, intermediate_size=40, num_local_experts=8, num_experts_per_tok=2,
                   sliding_window=None),
    "nllb-moe": dict(SEQ2SEQ, encoder_layers=4, decoder_layers=4, encoder_attention_heads=4,
                     decoder_attention_heads=4, encoder_ffn_dim=56, decoder_ffn_dim=56,
                     encoder_sparse_step=2, decoder_sparse_step=2, decoder_start_token_id=2,
                     moe_eval_capacity_token_fraction=1.0, max_position_embeddings=128),
    "switch_transformers": dict(SEQ2SEQ, num_layers=4, num_decoder_layers=4,
                                num_sparse_encoder_layers=2, num_sparse_decoder_layers=2, d_ff=56,
                                d_kv=12, num_heads=4, decoder_start_token_id=0),
}
PROMPTS = [[5, 9, 17, 33, 65, 7], [11, 12, 13], [101, 55]]
PAD, NEW_TOKENS = 1, 9


def mend_nllb(model):
    """The router of nllb-moe returns a mask where its caller wants ids; this is what it publishes:
    the two most probable experts, their weights adding up to 1."""
    import torch

    def forward(self, hidden_states, padding_mask=None):
        logits = self.classifier(hidden_states.to(self.classifier.weight.dtype))
        weights, ids = torch.softmax(logits, -1).topk(2, -1)
        return ids, (weights / weights.sum(-1, keepdim=True)).to(hidden_states.dtype), logits

    for module in model.modules():
        if type(module).__name__ == "NllbMoeTop2Router":
            module.forward = forward.__get__(module)


def build(name, device):
    import torch
    import transformers
    torch.manual_seed(sum(map(ord, name)))
    config = transformers.AutoConfig.for_model(name, **ARCHITECTURES[name])
    kind = (transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder
            else transformers.AutoModelForCausalLM)
    model = kind.from_config(config).to(device).eval()
    with torch.no_grad():  # so that routers decide, and do not sit on a tie
        for part, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3 if "router" in part or ".gate." in part else 0.08)
    if name == "nllb-moe":
        mend_nllb(model)
    return model


class Watch:
    """What the routers returned and which tokens went in, taken down without moebius_capture."""

    def __init__(self, model):
        self.calls = []
        self.handles = []
        for name, module in model.named_modules():
            if name.rsplit(".", 1)[-1] in ("gate", "router"):
                self.handles.append(module.register_forward_hook(self.router(name)))
        stacks = ([("encode", model.get_encoder()), ("decode", model.get_decoder())]
                  if model.config.is_encoder_decoder else [("decode", model)])
        for stack, module in stacks:
            self.handles.append(
                module.register_forward_pre_hook(self.stack(stack), with_kwargs=True))

    def router(self, name):
        def hook(_, inputs, outputs):
            outputs = [t.detach().cpu().reshape(-1, t.shape[-1]) for t in outputs]
            if outputs[0].dtype.is_floating_point and outputs[1].shape[-1] == 8 and \
                    not outputs[1].dtype.is_floating_point and outputs[0].shape[-1] == 1:
                ids, weights = outputs[1].argmax(-1, keepdim=True), outputs[0]  # switch: one-hot
            elif not outputs[0].dtype.is_floating_point:
                ids, weights = outputs[0], outputs[1]                           # nllb-moe, mended
            else:
                ids, weights = outputs[2], outputs[1]
                if weights.shape != ids.shape:
                    weights = weights.gather(-1, ids)
            self.calls[-1]["routers"][name] = (ids, weights)
        return hook

    def stack(self, stack):
        def hook(_, args, kwargs):
            ids = kwargs.get("input_ids", args[0] if args else None).cpu()
            mask = kwargs.get("attention_mask")
            mask = mask.cpu() if mask is not None and mask.dim() == 2 else None
            self.calls.append({"stack": stack, "ids": ids, "routers": {},
                               "mask": mask[:, -ids.shape[1]:].bool() if mask is not None and
                               mask.shape[1] >= ids.shape[1] else ids == ids})
        return hook


def words(blob):
    return list(struct.unpack("<%dI" % (len(blob) // 4), blob))


def compare(path, watch, model):
    """Holds the trace against WATCH. Returns how many ids were compared."""
    db = sqlite3.connect(path)
    layers = db.execute("SELECT name, stack, experts, top_k, layer FROM layer ORDER BY layer").fetchall()
    wide = max(layer[2] for layer in layers) > 255
    rows = db.execute("SELECT s.step, s.phase, s.tokens, s.request, s.position, s.token, r.experts, "
                      "r.weights FROM step s JOIN routing r ON r.step = s.step ORDER BY s.step")
    compared, following = 0, {}
    calls = [call for call in watch.calls if call["routers"]]
    for number, (step, phase, tokens, request, position, token, experts, weights) in enumerate(rows):
        call = calls[number]
        keep = call["mask"].reshape(-1).nonzero().reshape(-1)
        assert (phase == "encode") == (call["stack"] == "encode"), (step, phase)
        assert tokens == len(keep), (step, tokens, len(keep))
        assert words(token) == call["ids"].reshape(-1)[keep].tolist(), step
        for r, p in zip(words(request), words(position)):
            key = (r, phase == "encode")
            assert p == following.get(key, 0), (step, r, p)
            following[key] = p + 1
        ids = struct.unpack("<%d%s" % (len(experts) // (2 if wide else 1), "H" if wide else "B"), experts)
        halves = struct.unpack("<%de" % len(ids), weights)
        at = 0
        for name, stack, count, top_k, _ in layers:
            if (stack == "encoder") != (phase == "encode"):
                continue
            want_ids, want_weights = call["routers"][name]
            want = want_ids[keep].reshape(-1).tolist()
            assert list(ids[at:at + len(want)]) == want, (step, name)
            half = want_weights[keep].half().reshape(-1).tolist()
            assert list(halves[at:at + len(want)]) == half, (step, name)
            assert want and max(want) < count and len(want) == tokens * top_k
            at += len(want)
            compared += len(want)
        assert at == len(ids), step
    assert number + 1 == len(calls), (number, len(calls))
    found = db.execute("SELECT count(*) FROM request").fetchone()[0]
    assert found == len(PROMPTS), found
    if not model.config.is_encoder_decoder:
        assert [layer[4] for layer in layers] == sorted(
            int(layer[0].split("layers.")[1].split(".")[0]) for layer in layers)
    db.close()
    return compared


def run(name, folder, device, moebius):
    import torch
    model = build(name, device)
    path = os.path.join(folder, name + ".db")
    if os.path.exists(path):
        os.remove(path)
    length = max(map(len, PROMPTS))
    ids = torch.tensor([[PAD] * (length - len(p)) + p for p in PROMPTS], device=device)
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in PROMPTS], device=device)
    arguments = dict(input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS,
                     min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=PAD)
    with torch.inference_mode():
        plain = model.generate(**arguments)
        watch = Watch(model)
        with moebius_capture.Capture(model, path, labels=["a", "b", "c"], model_name=name):
            captured = model.generate(**arguments)
    assert torch.equal(plain, captured), "capturing changed what the model generates"
    for handle in watch.handles:
        handle.remove()
    compared = compare(path, watch, model)
    for command in ("check", "info") if moebius else ():
        subprocess.run([moebius, command, path], check=True, stdout=subprocess.DEVNULL)
    return "%d ids and weights equal, %d steps" % (compared, len(watch.calls))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--moebius")
    parser.add_argument("--only", help="architectures, separated by commas")
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    failed = 0
    for name in options.only.split(",") if options.only else ARCHITECTURES:
        try:
            print("%-20s %s" % (name, run(name, options.folder, options.device, options.moebius)))
        except Exception:  # one line per architecture, whatever happens in it
            failed += 1
            print("%-20s FAILED\n%s" % (name, traceback.format_exc()))
    print("%d architectures, %d failed" % (len(ARCHITECTURES), failed))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
