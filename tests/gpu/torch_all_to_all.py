"""What PyTorch's all_to_all_single takes, measured as `moebius calibrate` measures all-to-all: even
parts for all other ranks and none for oneself, queued while the GPU is busy, back to back.

    mpirun -n 2 --bind-to none python3 tests/gpu/torch_all_to_all.py [--profile hw.json] > torch.json

With a profile, each size has the time of its table beside it."""
import argparse
import json
import os
import statistics

import torch
import torch.distributed as dist

LEAST_BYTES, MOST_BYTES = 256, 256 << 20
DELAY_BYTES = 16 << 20
ROUNDS = 9


def launched(name, slurm):
    return int(os.environ.get("OMPI_COMM_WORLD_" + name, os.environ.get(slurm, "0")))


class Rig:
    def __init__(self, rank, ranks):
        self.rank, self.ranks = rank, ranks
        room = MOST_BYTES + 16 * ranks  # parts are rounded
        self.send = torch.zeros(room, dtype=torch.uint8, device="cuda")
        self.receive = torch.zeros(room, dtype=torch.uint8, device="cuda")
        self.delays = 4

    def splits(self, bytes_):
        part = round(bytes_ / (self.ranks - 1) / 16) * 16
        return [0 if peer == self.rank else part for peer in range(self.ranks)]

    def exchange(self, splits):
        n = sum(splits)
        dist.all_to_all_single(self.receive[:n], self.send[:n], splits, splits)

    def most(self, *values):
        box = torch.tensor(values, dtype=torch.float64, device="cuda")
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return box.tolist()

    def round(self, splits, turns):
        """ns of one exchange, the longest of all ranks."""
        while True:
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            torch.cuda.synchronize()
            for _ in range(self.delays):
                self.receive[:DELAY_BYTES].copy_(self.send[:DELAY_BYTES])
            self.exchange(splits)
            marks[0].record()
            for _ in range(turns):
                self.exchange(splits)
            marks[1].record()
            late = marks[0].query()
            torch.cuda.synchronize()
            ns, late = self.most(marks[0].elapsed_time(marks[1]) * 1e6 / turns, float(late))
            if not late or self.delays >= 4096:
                return ns
            self.delays *= 2

    def measure(self, bytes_):
        splits = self.splits(bytes_)
        turns = 32 if bytes_ <= 1 << 20 else 6
        return statistics.median([self.round(splits, turns) for _ in range(ROUNDS + 1)][1:])


def ours(path, ranks):
    if path is None:
        return {}
    with open(path, encoding="utf-8") as file:
        tables = json.load(file)["tables"]
    return {point[1]: point[2] for table in tables
            if table["name"] == "all-to-all" and table["shape"] == f"{ranks} ranks"
            for point in table["points"] if point[0] == 1}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--profile", help="of moebius calibrate")
    parser.add_argument("--most", type=int, default=MOST_BYTES, help="bytes of the largest")
    arguments = parser.parse_args()
    rank, ranks = launched("RANK", "SLURM_PROCID"), launched("SIZE", "SLURM_NTASKS")
    torch.cuda.set_device(launched("LOCAL_RANK", "SLURM_LOCALID") % torch.cuda.device_count())
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29511")
    dist.init_process_group("nccl", rank=rank, world_size=ranks)
    rig = Rig(rank, ranks)
    measured = ours(arguments.profile, ranks)
    sizes = []
    bytes_ = LEAST_BYTES
    while bytes_ <= arguments.most:
        ns = rig.measure(bytes_)
        row = {"bytes": bytes_, "torch_ns": ns, "torch_gb_per_s": bytes_ / ns}
        if bytes_ in measured:
            row["moebius_ns"] = measured[bytes_]
            row["moebius_gb_per_s"] = bytes_ / measured[bytes_]
        sizes.append(row)
        bytes_ *= 2
    if rank == 0:
        print(json.dumps({"ranks": ranks, "torch": torch.__version__,
                          "nccl": ".".join(map(str, torch.cuda.nccl.version())),
                          "device": torch.cuda.get_device_name(), "sizes": sizes}, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
