"""What do two processes give over one, and what does a step of theirs consist of?

    python -m bench.scale                 two cores, a few minutes; let nothing else run
    python -m bench.scale --dry           tiny sizes; nothing is written

An LSTM is trained by `rf.fit`, T 100, one thread a process, one core each. A step's time is what fit's own log says:
the making of the batch, forward, backward, the message, clipping and the optimiser. Three ways, in turns:

    alone     one process, the other core idle
    beside    both processes, each for itself: what they cost each other
    together  both processes, one network

From the first two come the times of a step as a + b B, from `Workers.together` on messages of many sizes its latency
and rate; their sum is compared with the third.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

import refold as rf
from bench.record import ROOT, into_docs, machine, save, table
from refold.train.workers import Workers, workers

STEPS, INPUTS = 100, 8
HIDDEN, BATCHES = (32, 64, 128, 256), (4, 8, 16, 32, 64)
PER_PROCESS = 32  # the batch of the first table
MESSAGES = tuple(4096 * 4**k for k in range(7))  # bytes: 4 KB to 16 MB
ROUNDS, TAKEN, WARM = 7, 10, 3  # turns, steps of a turn, steps before those that count
WAYS = ("alone", "beside", "together")
Times = dict[str, dict[int, float]]


# In each of the two processes


def child(rank: int, dry: bool) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    hidden, batches, rounds = ((8, 16), (2, 4), 2) if dry else (HIDDEN, BATCHES, ROUNDS)
    with workers(True, torch.device("cpu")) as team, tempfile.TemporaryDirectory() as folder:
        found = {
            "messages": messages(team, MESSAGES[:2] if dry else MESSAGES, rounds),
            "sizes": [size(team, n, batches, rounds, Path(folder) / "log") for n in hidden],
        }
    if rank == 0:
        print(json.dumps(found))


def messages(team: Workers, sizes: Sequence[int], rounds: int) -> list[dict[str, float]]:
    """Seconds for a message of so many bytes: torch's all_reduce, and what training does."""
    found = []
    for size in sizes:
        weights = {"w": torch.nn.Parameter(torch.zeros(size // 4))}
        weights["w"].grad = torch.zeros(size // 4)
        error, flat = torch.zeros(()), torch.zeros(size // 4)
        ways = {
            "all_reduce": lambda flat=flat: dist.all_reduce(flat),
            "together": lambda w=weights, e=error: team.together(w, 0.5, e, [0.0, 0.0]),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds * TAKEN + WARM):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                taken[name].append(time.perf_counter() - began)
        found.append({"bytes": size, **{n: statistics.median(t[WARM:]) for n, t in taken.items()}})
    return found


def size(
    team: Workers, hidden: int, batches: Sequence[int], rounds: int, log: Path
) -> dict[str, Any]:
    """Seconds of a step in each way, for each batch size."""
    torch.manual_seed(0)
    network = rf.Network(rf.Recurrent("lstm", INPUTS, hidden), head=1)
    taken: dict[str, dict[int, list[float]]] = {way: {b: [] for b in batches} for way in WAYS}
    for _ in range(rounds):
        for batch in batches:
            for way in WAYS:
                dist.barrier()
                if way != "alone" or team.rank == 0:
                    taken[way][batch] += steps(network, batch, way == "together", log, team)
    times = {
        way: {b: statistics.median(t) if t else 0.0 for b, t in by.items()}
        for way, by in taken.items()
    }
    weights = sum(p.numel() for p in network.parameters())
    return {"hidden": hidden, "bytes": 4 * weights, "seconds": times}


def steps(network: rf.Network, batch: int, together: bool, log: Path, team: Workers) -> list[float]:
    """The seconds of some steps of training, each with `batch` sequences for this process."""
    number = (TAKEN + WARM) * batch * (team.number if together else 1)
    x = list(torch.randn(STEPS, number, INPUTS).unbind(1))
    data = rf.Sequences(x, [part[:, :1] for part in x])
    path = log.with_suffix(f".{team.rank}")
    settings = rf.Fit(epochs=1, batch_size=batch, validation=0, log=path)
    rf.fit(network, data, settings, distributed=together)
    if together and team.rank > 0:
        return []
    lines = path.read_text().splitlines()
    return [json.loads(line)["seconds"] for line in lines[WARM:]]


# The model


def straight(points: Mapping[int, float]) -> tuple[float, float]:
    """(a, b) of t = a + b n with the least squares of relative errors: small times count as much."""
    n = torch.tensor(list(points), dtype=torch.float64)
    t = torch.tensor(list(points.values()), dtype=torch.float64)
    rows = torch.stack([1 / t, n / t], 1)
    a, b = torch.linalg.lstsq(rows, torch.ones_like(t).unsqueeze(1)).solution.flatten().tolist()
    return a, b


def modelled(found: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the model, and what it says beside what was measured."""
    latency, per_byte = straight({m["bytes"]: m["together"] for m in found["messages"]})
    rows = []
    for one in found["sizes"]:
        times: Times = {
            way: {int(b): t for b, t in by.items()} for way, by in one["seconds"].items()
        }
        (a, b), (a2, b2) = (straight(times[way]) for way in ("alone", "beside"))
        message = latency + per_byte * one["bytes"]
        rows.append(
            {
                "hidden": one["hidden"],
                "bytes": one["bytes"],
                "alone": [a, b],
                "beside": [a2, b2],
                "message": message,
                "measured": times["together"],
                "predicted": {n: a2 + b2 * n + message for n in times["together"]},
                "break_even": break_even(a, b, a2, b2, message),
            }
        )
    return {"latency": latency, "bytes_per_second": 1 / per_byte, "sizes": rows}


def break_even(a: float, b: float, a2: float, b2: float, message: float) -> float | None:
    """The batch of each of two processes from which they beat one with both: None when they never do.

    a + 2 b n = a2 + b2 n + message.
    """
    won = 2 * b - b2
    return max(0.0, (a2 + message - a) / won) if won > 0 else None


def throughput(found: dict[str, Any], batch: int) -> list[dict[str, float]]:
    """Tokens a second, and both speed-ups."""
    rows = []
    for one in found["sizes"]:
        alone, _, together = ({int(b): t for b, t in one["seconds"][way].items()} for way in WAYS)
        rows.append(
            {
                "hidden": one["hidden"],
                "one": batch * STEPS / alone[batch],
                "two": 2 * batch * STEPS / together[batch],
                "weak": 2 * alone[batch] / together[batch],
                "strong": alone[2 * batch] / together[batch],
            }
        )
    return rows


# The page


def page(result: dict[str, Any]) -> str:
    """The tables, each under what it says."""
    model, milli = result["model"], 1e3
    speed = [
        [
            f"{r['hidden']}",
            f"{r['one']:,.0f}",
            f"{r['two']:,.0f}",
            f"{r['weak']:.2f}",
            f"{r['strong']:.2f}",
        ]
        for r in result["throughput"]
    ]
    sent = [
        [
            f"{m['bytes'] / 1024:,.0f} KB",
            f"{1e6 * m['all_reduce']:,.0f}",
            f"{1e6 * m['together']:,.0f}",
        ]
        for m in result["measured"]["messages"]
    ]
    parts = [
        [
            f"{r['hidden']}",
            f"{r['bytes'] / 1024:,.0f} KB",
            *(f"{milli * a:.2f} + {milli * b:.3f} B" for a, b in (r["alone"], r["beside"])),
            f"{milli * r['message']:.2f}",
            "nowhere" if r["break_even"] is None else f"{r['break_even']:.0f}",
        ]
        for r in model["sizes"]
    ]
    batches = list(model["sizes"][0]["measured"])
    compared = [
        [
            f"{r['hidden']}",
            *(f"{milli * r['predicted'][b]:.2f} / {milli * r['measured'][b]:.2f}" for b in batches),
        ]
        for r in model["sizes"]
    ]
    rate = model["bytes_per_second"] / 1e9
    return "\n\n".join(
        (
            "Tokens a second, and the speed-up of two processes on two cores:",
            table(["H", "one process", "two", "same batch each", "same batch in all"], speed),
            f"A message of n bytes: {1e6 * model['latency']:.0f} µs + n / ({rate:.2f} GB/s), in µs:",
            table(["message", "all_reduce", "with what training does around it"], sent),
            "The parts of a step, in ms, and the batch of each process from which two pay:",
            table(
                [
                    "H",
                    "weights",
                    "one process alone",
                    "one beside another",
                    "message",
                    "pays from B",
                ],
                parts,
            ),
            "A step of two processes, in ms, as the sum of its parts / measured:",
            table(["H", *(f"B {b}" for b in batches)], compared),
        )
    )


def main() -> None:
    reader = argparse.ArgumentParser()
    reader.add_argument("--dry", action="store_true")
    reader.add_argument("--rank", type=int)
    asked, _ = reader.parse_known_args()
    if asked.rank is not None:
        child(asked.rank, asked.dry)
        return
    found = both(asked.dry)
    batch = 2 if asked.dry else PER_PROCESS
    result = {
        **machine(),
        "threads": 1,
        "processes": 2,
        "throughput": throughput(found, batch),
        "model": modelled(found),
        "measured": found,
    }
    text = page(result)
    print(text)
    if not asked.dry:
        save("scale", result)
        into_docs("docs/scale.md", "scale", text)


def both(dry: bool) -> dict[str, Any]:
    """Start two processes; what the first one found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(2):
        words = [sys.executable, "-m", "bench.scale", "--rank", str(rank), *["--dry"] * dry]
        env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        out = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
        started.append(subprocess.Popen(words, cwd=ROOT, env=env, stdout=out, text=True))
    told = started[0].communicate()[0]
    if any(process.wait() for process in started):
        raise SystemExit("a process of bench.scale ended with an error")
    return json.loads(told.splitlines()[-1])


if __name__ == "__main__":
    main()
