"""Writes a trace with the part of tools/capture/moebius_capture.py that needs no torch, for
tests/test_capture.c, which knows the same numbers. capture_writer.py KIND OUT"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "capture"))
import moebius_capture as capture  # noqa: E402


def number(*parts):
    value = 7
    for part in parts:
        value = (value * 31 + part) % 1000003
    return value


def write(path, experts, steps, killed):
    layers = [{"layer": 2 * i, "name": "layer %d" % i, "stack": "encoder" if i == 0 else "decoder",
               "experts": experts, "top_k": i + 1, "expert_bytes": 100 + i} for i in range(3)]
    writer = capture.TraceWriter(path, layers, model="écrit", config={"a": 1}, device="cpu")
    for step in range(steps):
        phase = ("encode", "prefill", "decode")[step % 3]
        tokens = 1 if phase == "decode" else 1 + number(step) % 200
        ids, weights = [], []
        for layer in layers:
            if (layer["stack"] == "encoder") != (phase == "encode"):
                continue
            for i in range(tokens * layer["top_k"]):
                ids.append(number(step, layer["layer"], i) % (experts + 1) - 1)
                weights.append(number(step, i) % 64 / 64)
        writer.request(step % 4, "label %d" % (step % 4), step, tokens, step)
        if step % 2 == 1:  # as bytes, the way the hooks hand them over
            ids = b"".join((i & 0xFFFF).to_bytes(2, "little") if experts > 255 else bytes([i & 255])
                           for i in ids)
        writer.step(phase, [step % 4] * tokens, list(range(step, step + tokens)), ids,
                    weights if step % 5 else None,
                    [number(step, i) for i in range(tokens)] if step % 7 else None, step)
    if killed:
        os._exit(0)
    writer.close()


def refuse(path):
    """Every one of these must be refused and change nothing."""
    layer = {"layer": 0, "name": "a", "stack": "decoder", "experts": 4, "top_k": 2}
    writer = capture.TraceWriter(path, [layer])
    writer.step("decode", [0], [0], [1, 2])
    for arguments in (([], [], []), ([0], [0, 1], [1, 2]), ([0], [0], [1]), ([0], [0], [1, 2, 3]),
                      ([0], [0], [1, 2], [0.5])):
        try:
            writer.step("decode", *arguments)
        except ValueError:
            continue
        sys.exit("accepted %r" % (arguments,))
    writer.close()
    try:
        capture.TraceWriter(path, [layer])
    except FileExistsError:
        return
    sys.exit("replaced an existing file")


if __name__ == "__main__":
    assert capture.crc32c(b"123456789") == 0xE3069283
    if sys.argv[1] == "refuse":
        refuse(sys.argv[2])
    else:
        write(sys.argv[2], 300 if sys.argv[1] == "wide" else 40, 400, sys.argv[1] == "killed")
