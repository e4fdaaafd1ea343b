#!/usr/bin/env python3
"""Records what the routers of a Mixture-of-Experts model choose while it runs in transformers.

    from moebius_capture import Capture
    with Capture(model, "trace.db"):
        model.generate(**inputs, max_new_tokens=64)

writes a trace that every command of moebius reads: expert ids and weights of each token in each MoE
layer, phases, requests, positions and token ids. Needs nothing but the standard library and the
torch that runs the model; the part that writes (TraceWriter) needs no torch. The model computes
what it would compute without: outputs of routers are read, once per step, after the step.

Known to work with transformers 5, whose routers are modules that return the chosen experts:
mixtral, olmoe, qwen2_moe, qwen3_moe, deepseek_v2, deepseek_v3, gpt_oss, phimoe, nllb-moe and
switch_transformers. Older routers return scores alone; they are refused.

As a program it generates from prompts, one a line:

    python3 moebius_capture.py --model DIR --prompts prompts.txt --out trace.db --generate 64
"""

import argparse
import ctypes
import json
import os
import re
import sqlite3
import struct
import sys
import time

# ---------------------------------------------------------------------------------------------------
# The trace, schema 1 (traces/schema.sql)

SCHEMA = """
PRAGMA application_id = 0x4D6F4265;
PRAGMA user_version = 1;
CREATE TABLE run(id INTEGER PRIMARY KEY, created TEXT NOT NULL, tool TEXT NOT NULL,
    source TEXT NOT NULL, model TEXT NOT NULL, model_config TEXT, device TEXT, plan TEXT, notes TEXT);
CREATE TABLE layer(layer INTEGER PRIMARY KEY, name TEXT NOT NULL,
    stack TEXT NOT NULL CHECK(stack IN ('decoder', 'encoder')), experts INTEGER NOT NULL,
    top_k INTEGER NOT NULL, shared_experts INTEGER NOT NULL, d_model INTEGER NOT NULL,
    d_ff INTEGER NOT NULL, expert_bytes INTEGER NOT NULL, gate TEXT);
CREATE TABLE request(request INTEGER PRIMARY KEY, label TEXT, arrival_ns INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL);
CREATE TABLE step(step INTEGER PRIMARY KEY,
    phase TEXT NOT NULL CHECK(phase IN ('prefill', 'decode', 'encode', 'mixed')),
    start_ns INTEGER NOT NULL, duration_ns INTEGER NOT NULL, tokens INTEGER NOT NULL,
    request BLOB NOT NULL, position BLOB NOT NULL, token BLOB, rank BLOB, crc INTEGER NOT NULL);
CREATE TABLE routing(step INTEGER PRIMARY KEY, experts BLOB NOT NULL, weights BLOB, scores BLOB,
    crc INTEGER NOT NULL);
CREATE TABLE residency(step INTEGER NOT NULL, rank INTEGER NOT NULL, events BLOB NOT NULL,
    crc INTEGER NOT NULL, PRIMARY KEY(step, rank)) WITHOUT ROWID;
CREATE TABLE timing(step INTEGER NOT NULL, rank INTEGER NOT NULL, ops BLOB NOT NULL,
    crc INTEGER NOT NULL, PRIMARY KEY(step, rank)) WITHOUT ROWID;
"""


def _byte_table():
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
        table.append(i)
    return table


_BYTES = _byte_table()
_SINGLE = [bytes(_BYTES[i] >> 8 * plane & 255 for i in range(256)) for plane in range(4)]
_SHIFTS = []                        # by level: see _shift()
_CHUNK = 1 << 16


def _short(data, state):
    for byte in data:
        state = _BYTES[(state ^ byte) & 255] ^ state >> 8
    return state


def _shift(level):
    """What 2**LEVEL zero bytes do to a state: [byte of the state before][byte value] -> state."""
    while len(_SHIFTS) <= level:
        if not _SHIFTS:
            rows = [[_short(b"\0", value << 8 * i) for value in range(256)] for i in range(4)]
        else:
            twice = _SHIFTS[-1][0]
            rows = [[_apply(twice, state) for state in row] for row in twice]
        tables = [[bytes(state >> 8 * plane & 255 for state in row) for plane in range(4)]
                  for row in rows]
        _SHIFTS.append((rows, tables))
    return _SHIFTS[level]


def _apply(rows, state):
    return (rows[0][state & 255] ^ rows[1][state >> 8 & 255] ^ rows[2][state >> 16 & 255] ^
            rows[3][state >> 24])


def _long(data):
    """The state after DATA, from 0. A CRC is linear, so the states of neighbouring pieces are
    joined in pairs, all at once: byte i of all states is one bytes object, a table is a translate(),
    a sum is one long exclusive or. Zeros in front change nothing."""
    data = data.rjust(1 << (len(data) - 1).bit_length(), b"\0")
    planes = [data.translate(table) for table in _SINGLE]
    level = 0
    while len(planes[0]) > 8:
        half = len(planes[0]) // 2
        left = [plane[0::2] for plane in planes]
        right = [plane[1::2] for plane in planes]
        tables = _shift(level)[1]
        for plane in range(4):
            total = int.from_bytes(right[plane], "little")
            for i in range(4):
                total ^= int.from_bytes(left[i].translate(tables[i][plane]), "little")
            planes[plane] = total.to_bytes(half, "little")
        level += 1
    state = 0
    for pieces in zip(*planes):
        state = _apply(_shift(level)[0], state) ^ int.from_bytes(bytes(pieces), "little")
    return state


def crc32c(data, crc=0):
    """CRC-32C of DATA, continuing CRC; crc32c(b"123456789") == 0xE3069283."""
    state = crc ^ 0xFFFFFFFF
    if len(data) < 256:
        return _short(data, state) ^ 0xFFFFFFFF
    for begin in range(0, len(data), _CHUNK):
        chunk = bytes(data[begin:begin + _CHUNK])
        if len(chunk) < 256:
            state = _short(chunk, state)
        else:
            first = int.from_bytes(chunk[:4], "little") ^ state
            state = _long(first.to_bytes(4, "little") + chunk[4:])
    return state ^ 0xFFFFFFFF


def row_crc(columns):
    """The checksum of a row: each column adds a tag and its value (traces/rowcrc.h)."""
    crc = 0
    for value in columns:
        if value is None:
            head = b"\0"
        elif isinstance(value, int):
            head = b"\1" + struct.pack("<q", value)
        elif isinstance(value, str):
            value = value.encode()
            head = b"\2" + struct.pack("<Q", len(value)) + value
        else:
            crc = crc32c(b"\3" + struct.pack("<Q", len(value)), crc)
            head = bytes(value)
        crc = crc32c(head, crc)
    return crc


class TraceWriter:
    """Writes one trace. LAYERS are dicts with layer, name, stack, experts, top_k and, if known,
    shared_experts, d_model, d_ff, expert_bytes, gate; encoder layers first, ascending.

    Steps are committed every COMMIT_STEPS steps or quarter of a second, so that a killed process
    loses no more than that. PATH must not exist."""

    COMMIT_STEPS = 256
    COMMIT_SECONDS = 0.25

    def __init__(self, path, layers, model="", source="", config=None, device=None, notes=None):
        if os.path.exists(path):
            raise FileExistsError("%s: exists already; remove it or choose another name" % path)
        self.path = path
        self.layers = [dict(layer) for layer in layers]
        self.id_bytes = 1 if max(layer["experts"] for layer in layers) <= 255 else 2
        self.ids_per_token = {"decoder": 0, "encoder": 0}
        for layer in layers:
            self.ids_per_token[layer["stack"]] += layer["top_k"]
        self.steps = 0
        self.pending = 0
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA page_size = 4096")
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.executescript("BEGIN;" + SCHEMA)
        self.db.execute(
            "INSERT INTO run VALUES(1, ?, 'moebius_capture', ?, ?, ?, ?, NULL, ?)",
            (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), source, model,
             json.dumps(config) if config is not None else None, device,
             json.dumps({"capture": notes or {}})))
        for layer in self.layers:
            self.db.execute(
                "INSERT INTO layer VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (layer["layer"], layer["name"], layer["stack"], layer["experts"], layer["top_k"],
                 layer.get("shared_experts", 0), layer.get("d_model", 0), layer.get("d_ff", 0),
                 layer.get("expert_bytes", 0), layer.get("gate")))
        self.db.execute("COMMIT")

    def _begin(self):
        if not self.db.in_transaction:
            self.db.execute("BEGIN IMMEDIATE")
            self.deadline = time.monotonic() + self.COMMIT_SECONDS

    def request(self, request, label=None, arrival_ns=0, prompt_tokens=0, output_tokens=0):
        """Adds or replaces a request."""
        self._begin()
        self.db.execute("INSERT OR REPLACE INTO request VALUES(?, ?, ?, ?, ?)",
                        (request, label, arrival_ns, prompt_tokens, output_tokens))

    def step(self, phase, requests, positions, experts, weights=None, tokens=None, start_ns=0,
             duration_ns=0):
        """Adds a step. REQUESTS, POSITIONS and TOKENS are lists, one number a token. EXPERTS is the
        ids of the stack's layers one after the other, [tokens][top_k] each, as bytes of u8 or u16le
        or as a list with -1 for routed nowhere; WEIGHTS the same as bytes of f16 or as a list."""
        count = len(requests)
        ids = count * self.ids_per_token["encoder" if phase == "encode" else "decoder"]
        if not isinstance(experts, (bytes, bytearray)):
            mask = 255 if self.id_bytes == 1 else 65535
            experts = struct.pack("<%d%s" % (len(experts), "B" if self.id_bytes == 1 else "H"),
                                  *[id & mask for id in experts])
        if weights is not None and not isinstance(weights, (bytes, bytearray)):
            weights = struct.pack("<%de" % len(weights), *weights)
        if count == 0 or len(positions) != count or len(experts) != ids * self.id_bytes or (
                weights is not None and len(weights) != 2 * ids) or (
                tokens is not None and len(tokens) != count):
            raise ValueError("step %d: %d tokens, and arrays that do not fit" % (self.steps, count))

        def words(numbers):
            return struct.pack("<%dI" % count, *numbers)

        row = [self.steps, phase, start_ns, duration_ns, count, words(requests), words(positions),
               words(tokens) if tokens is not None else None, None]
        routing = [self.steps, experts, weights, None]
        self._begin()
        self.db.execute("INSERT INTO step VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row + [row_crc(row)])
        self.db.execute("INSERT INTO routing VALUES(?, ?, ?, ?, ?)", routing + [row_crc(routing)])
        self.steps += 1
        self.pending += 1
        if self.pending >= self.COMMIT_STEPS or time.monotonic() > self.deadline:
            self.commit()

    def commit(self):
        if self.db.in_transaction:
            self.db.execute("COMMIT")
        self.pending = 0

    def close(self):
        """Leaves one file, without a log beside it."""
        if self.db is None:
            return
        self.commit()
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.execute("PRAGMA journal_mode = DELETE")
        self.db.close()
        self.db = None


# ---------------------------------------------------------------------------------------------------
# Finding the routers of a model, and reading what they chose

_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
_TOP_K = ("top_k", "num_experts_per_tok", "num_selected_experts", "moe_topk")
_D_FF = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "d_ff",
         "encoder_ffn_dim")
_SHARED = ("shared_expert", "shared_experts")


def _first(names, *objects):
    for thing in objects:
        for name in names:
            value = getattr(thing, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return 0


def _top_k(name, router, parent, config):
    if "Top1" in type(router).__name__:
        return 1
    if "Top2" in type(router).__name__:
        return 2
    top_k = _first(_TOP_K, router, parent, config)
    if top_k == 0:
        raise ValueError("%s: cannot tell how many experts it chooses" % name)
    return top_k


def _experts(name, router, parent, config):
    weight = getattr(getattr(router, "classifier", router), "weight", None)
    count = int(weight.shape[0]) if weight is not None and weight.dim() == 2 else 0
    count = count or _first(_EXPERTS, router, parent, config)
    if count == 0:
        raise ValueError("%s: cannot tell how many experts there are" % name)
    return count


def _expert_bytes(parent, experts):
    module = getattr(parent, "experts", None)
    if module is None:
        return 0
    return sum(p.numel() * p.element_size() for p in module.parameters()) // experts


def find_layers(model):
    """The MoE layers of MODEL: [(router module, description)], encoder first. The layers of the
    decoder go on counting where those of the encoder end."""
    modules = dict(model.named_modules())
    blocks = {"encoder": -1, "decoder": -1}
    found = []
    for name, module in modules.items():
        match = re.search(r"(?:layers|block|h)\.(\d+)(?:\.|$)", name)
        stack = "encoder" if re.search(r"(?:^|\.)encoder\.", name) else "decoder"
        if not match:
            continue
        blocks[stack] = max(blocks[stack], int(match.group(1)))
        if name.rsplit(".", 1)[-1] in ("gate", "router"):
            found.append((stack, int(match.group(1)), name, module))
    layers = []
    for stack, index, name, router in sorted(found, key=lambda f: (f[0] != "encoder", f[1])):
        parent = modules[name.rsplit(".", 1)[0]]
        config = getattr(parent, "config", None) or model.config
        experts = _experts(name, router, parent, config)
        layers.append((router, {
            "layer": index + (blocks["encoder"] + 1 if stack == "decoder" else 0),
            "name": name,
            "stack": stack,
            "experts": experts,
            "top_k": _top_k(name, router, parent, config),
            "shared_experts": _first(("n_shared_experts",), config)
            or int(any(hasattr(parent, shared) for shared in _SHARED)),
            "d_model": _first(("hidden_size", "d_model"), config),
            "d_ff": _first(_D_FF, config),
            "expert_bytes": _expert_bytes(parent, experts),
            "gate": json.dumps({"class": type(router).__name__}),
        }))
    if not layers:
        raise ValueError("%s has no router that is known: no module called gate or router"
                         % type(model).__name__)
    return layers


def _flatten(outputs):
    if isinstance(outputs, (tuple, list)):
        for item in outputs:
            yield from _flatten(item)
    elif hasattr(outputs, "is_floating_point") and outputs.dim() >= 2:
        yield outputs.detach().reshape(-1, outputs.shape[-1])


def read_choice(outputs, layer):
    """What a router chose: (ids [tokens, top_k], weights of that shape or None). Ids come as they
    are, or as a mask over the experts; -1 where a token was routed nowhere."""
    import torch
    experts, top_k = layer["experts"], layer["top_k"]
    tensors = list(_flatten(outputs))
    whole = [t for t in tensors if not t.is_floating_point()]
    real = [t for t in tensors if t.is_floating_point()]
    scores = next((t for t in real if t.shape[-1] == experts), None)
    ids = next((t for t in whole if t.shape[-1] == top_k and
                not (top_k == experts and int(t.max()) <= 1)), None)
    if ids is None:
        mask = next((t for t in whole if t.shape[-1] == experts), None)
        if mask is None:
            raise ValueError("%s: the router returns no chosen experts; transformers 5 or newer is "
                             "needed" % layer["name"])
        order = (mask > 0).to(torch.float32)
        if top_k > 1 and order.sum(-1).max() <= 1:
            raise ValueError("%s: the router returns the first of %d choices alone (transformers 5 "
                             "breaks this of nllb-moe): mend it before capturing"
                             % (layer["name"], top_k))
        if scores is not None:
            order = order * (1 + torch.softmax(scores.float(), -1))
        value, ids = order.topk(top_k, -1)
        ids = torch.where(value > 0, ids, torch.full_like(ids, -1))
    same = [t for t in real if t.shape == ids.shape]
    if same:
        weights = same[1] if top_k == experts and len(same) > 1 else same[0]
    elif scores is not None:
        weights = scores.gather(-1, ids.long().clamp(min=0))
    else:
        return ids, None
    return ids, weights.masked_fill(ids < 0, 0)


def _to_bytes(tensor):
    tensor = tensor.contiguous().cpu()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())


# ---------------------------------------------------------------------------------------------------
# Following the steps of a running model


class _Step:
    """One pass of a stack: its tokens, and the routers' outputs as they come."""

    def __init__(self, stack, phase, rows, keep, positions, tokens, start_ns):
        self.stack = stack
        self.phase = phase
        self.rows = rows            # request of each kept token
        self.keep = keep            # indices into the flattened batch, or None: all
        self.positions = positions
        self.tokens = tokens
        self.start_ns = start_ns
        self.choices = {}


class Capture:
    """Hooks MODEL until close(), or the end of a with block, and writes PATH.

    Every row of a prompt batch is a request; LABELS names them in order. Padding is left out. A
    pass that starts without a cache is a prefill, one of single tokens with a cache a decode step;
    the encoder of a translation model makes encode steps. WEIGHTS = False leaves the weights out."""

    def __init__(self, model, path, labels=(), model_name=None, weights=True):
        self.model = model
        self.labels = list(labels)
        self.weights = weights
        self.routers = find_layers(model)
        self.layers = [layer for _, layer in self.routers]
        self.current = []           # a stack: the decoder may run inside the whole model
        self.first_request = 0
        self.rows = 0               # requests of the last prompt batch
        self.requests = []          # [prompt_tokens, output_tokens, label, arrival_ns]
        self.encoded = False
        self.start = time.monotonic_ns()
        config = model.config
        self.writer = TraceWriter(
            path, self.layers,
            model=model_name or getattr(config, "_name_or_path", "") or type(model).__name__,
            source="transformers", config=json.loads(config.to_json_string()),
            device=str(next(model.parameters()).device),
            notes={"class": type(model).__name__, "durations": "not measured",
                   "padding": "left out"})
        self.handles = [router.register_forward_hook(self._on_router(i))
                        for i, (router, _) in enumerate(self.routers)]
        if getattr(config, "is_encoder_decoder", False):
            self._follow(model.get_encoder(), "encoder")
            self._follow(model.get_decoder(), "decoder")
        else:
            self._follow(model, "decoder")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        """Takes the hooks off and completes the file."""
        for handle in self.handles:
            handle.remove()
        self.handles = []
        for i, (prompt, output, label, arrival) in enumerate(self.requests):
            self.writer.request(i, label, arrival, prompt, output)
        self.requests = []
        self.writer.close()

    def _follow(self, module, stack):
        def before(_, args, kwargs):
            self._begin(stack, args, kwargs)

        def after(_, args, kwargs, output):
            self._end()

        self.handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        self.handles.append(module.register_forward_hook(after, with_kwargs=True))

    def _on_router(self, index):
        stack = self.layers[index]["stack"]

        def hook(_, inputs, outputs):
            if self.current and self.current[-1].stack == stack:
                self.current[-1].choices[index] = outputs

        return hook

    def _new_requests(self, rows):
        self.first_request = len(self.requests)
        self.rows = rows
        for _ in range(rows):
            label = self.labels.pop(0) if self.labels else None
            self.requests.append([0, 0, label, time.monotonic_ns() - self.start])

    @staticmethod
    def _past(kwargs):
        cache = kwargs.get("past_key_values")
        if cache is None:
            return 0
        if hasattr(cache, "get_seq_length"):
            return int(cache.get_seq_length())
        return int(cache[0][0].shape[-2]) if len(cache) > 0 else 0

    @staticmethod
    def _mask(kwargs, rows, length):
        """[rows][length] of 0 and 1 over the whole context, or None."""
        mask = kwargs.get("attention_mask")
        if mask is None or not hasattr(mask, "dim") or mask.dim() != 2 or mask.shape[0] != rows:
            return None
        return mask.tolist() if mask.shape[1] >= length else None

    def _begin(self, stack, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        shape = ids if ids is not None else kwargs.get("inputs_embeds")
        if shape is None:
            raise ValueError("%s: called without input_ids or inputs_embeds" % stack)
        rows, length = int(shape.shape[0]), int(shape.shape[1])
        past = 0 if stack == "encoder" else self._past(kwargs)
        mask = self._mask(kwargs, rows, length)
        if stack == "encoder":
            self._new_requests(rows)
            self.encoded = True
        elif past == 0 and not self.encoded:
            self._new_requests(rows)
        encodes = any(layer["stack"] == "encoder" for layer in self.layers) or self.encoded
        if stack == "encoder":
            phase = "encode"
        elif length == 1 and (past > 0 or encodes):
            phase = "decode"
        else:
            phase = "prefill"
        per_request = max(1, rows // max(1, self.rows))
        requests, keep, positions = [], [], []
        for row in range(rows):
            seen = sum(mask[row][:-length]) if mask is not None else past
            request = self.first_request + min(row // per_request, self.rows - 1)
            for i in range(length):
                if mask is not None and not mask[row][len(mask[row]) - length + i]:
                    continue
                requests.append(request)
                positions.append(seen)
                keep.append(row * length + i)
                seen += 1
                self.requests[request][0 if phase in ("prefill", "encode") else 1] += 1
        flat = ids.reshape(-1).tolist() if ids is not None else None
        self.current.append(_Step(
            stack, phase, requests, keep if len(keep) < rows * length else None, positions,
            [flat[i] for i in keep] if flat is not None else None,
            time.monotonic_ns() - self.start))

    def _end(self):
        import torch
        step = self.current.pop()
        indices = [i for i, layer in enumerate(self.layers) if layer["stack"] == step.stack]
        if not indices or not step.rows:
            return
        ids, weights = [], []
        keep = None
        for i in indices:
            if i not in step.choices:
                raise ValueError("%s: did not run in this step" % self.layers[i]["name"])
            chosen, weight = read_choice(step.choices[i], self.layers[i])
            if step.keep is not None:
                if keep is None:
                    keep = torch.tensor(step.keep, device=chosen.device)
                keep = keep.to(chosen.device)
                chosen = chosen.index_select(0, keep)
                weight = weight.index_select(0, keep) if weight is not None else None
            if chosen.shape[0] != len(step.rows):
                raise ValueError("%s: chose for %d tokens, the step has %d"
                                 % (self.layers[i]["name"], chosen.shape[0], len(step.rows)))
            narrow = torch.uint8 if self.writer.id_bytes == 1 else torch.int16
            ids.append(chosen.to(narrow).reshape(-1))
            weights.append(weight.to(torch.float16).reshape(-1) if weight is not None else None)
        device = ids[0].device
        have = self.weights and all(weight is not None for weight in weights)
        self.writer.step(
            step.phase, step.rows, step.positions,
            _to_bytes(torch.cat([part.to(device) for part in ids])),
            _to_bytes(torch.cat([part.to(device) for part in weights])) if have else None,
            step.tokens, step.start_ns)


# ---------------------------------------------------------------------------------------------------


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True, help="a checkpoint's folder or name")
    parser.add_argument("--prompts", required=True, help="text file, one prompt a line")
    parser.add_argument("--out", required=True, help="the trace to write; must not exist")
    parser.add_argument("--generate", type=int, default=64, help="tokens to generate (64)")
    parser.add_argument("--batch", type=int, default=1, help="prompts at a time (1)")
    parser.add_argument("--device", default=None, help="where to run (cuda if there)")
    options = parser.parse_args(argv)
    import torch
    import transformers
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    config = transformers.AutoConfig.from_pretrained(options.model)
    kind = (transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder
            else transformers.AutoModelForCausalLM)
    model = kind.from_pretrained(options.model, dtype="auto").to(device).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    with open(options.prompts, encoding="utf-8") as lines:
        prompts = [line.rstrip("\n") for line in lines if line.strip()]
    with Capture(model, options.out, model_name=options.model) as capture, torch.inference_mode():
        for i in range(0, len(prompts), options.batch):
            inputs = tokenizer(prompts[i:i + options.batch], return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            model.generate(**inputs.to(device), max_new_tokens=options.generate)
    print("%s: %d steps" % (options.out, capture.writer.steps), file=sys.stderr)


if __name__ == "__main__":
    main()
