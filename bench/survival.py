"""Does a run that is killed anywhere end with the bits of one that is not? And are damaged checkpoints found?

    python -m bench.survival                 100 kills with one process, 20 with two
    python -m bench.survival --kills 5 --pairs 1

A run trains an LSTM with dropout over ragged sequences, by truncated backpropagation, with a schedule and running
clipping: all that a checkpoint has to hold. It is killed (signal 9) after a random time, resumed, perhaps killed again,
and resumed to its end. What is compared are the final weights, and every error on the way, bit by bit. With two
processes, one of them is killed, and both are started again.

Children are forked from this process, which has loaded everything and runs no threads.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch._dynamo  # an optimiser's first step loads it, which takes longer than a whole run here

import refold as rf
import refold.nn
from bench.record import machine, save
from refold.train.checkpoints.file import read
from refold.train.checkpoints.folder import checkpoints

KILLS, PAIRS, MUTATIONS = 100, 20, 200
END = "end.txt"


def trained(folder: Path, distributed: bool) -> str:
    """One run to its end, from wherever its folder says; a digest of all that came out of it."""
    torch.manual_seed(1)
    lengths = [int(n) for n in torch.randint(20, 60, (24,))]
    x = [torch.randn(n, 2) for n in lengths]
    data = rf.Sequences(x, [part.cumsum(0)[:, :1] / 5 for part in x])
    layer = rf.Recurrent("lstm", 2, 12, num_layers=2, dropout=0.2)
    network = rf.Network(layer, head=1)
    settings = rf.Fit(
        epochs=4,
        rate=1e-2,
        batch_size=4,
        schedule="plateau",
        gradient=rf.Truncated(10, 15),
        clip=rf.Clip(running=2.0),
        log=folder.parent / f"{folder.name}.jsonl",
    )
    run = rf.fit(
        network,
        data,
        settings,
        checkpoint=rf.Checkpoint(folder, steps=7),
        resume=True,
        distributed=distributed,
    )
    found = hashlib.sha256(repr((run.train, run.validation, run.steps, run.best_epoch)).encode())
    for parameter in network.parameters():
        found.update(parameter.detach().numpy().tobytes())
    lines = (folder.parent / f"{folder.name}.jsonl").read_text().splitlines()
    assert len(lines) == run.steps, f"the log has {len(lines)} lines for {run.steps} steps"
    return found.hexdigest()


def forked(folder: Path, rank: int, number: int, port: int) -> int:
    """A child that trains; its process number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(number)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if rank:  # one process says what there is to say
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
        digest = trained(folder, number > 1)
        if rank == 0:
            (folder / END).write_text(digest)
        code = 0
    except rf.RefoldError as error:
        code = 3 if "no longer reaches" in str(error) or "cannot be joined" in str(error) else 4
        if code == 4:
            print(error, file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def run_once(folder: Path, number: int, kill_after: float | None, rng: random.Random) -> bool:
    """One try with so many processes, one of which is killed; has it come to its end?"""
    port = rng.randint(20000, 60000)
    children = [forked(folder, rank, number, port) for rank in range(number)]
    if kill_after is not None:
        time.sleep(kill_after)
        victim = rng.choice(children)
        os.kill(victim, signal.SIGKILL)
        time.sleep(0.5)
        for other in children:  # as torchrun does: it may wait for one that has not joined
            if other != victim:
                os.kill(other, signal.SIGTERM)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(code not in (0, 3, 143, -signal.SIGTERM, -signal.SIGKILL) for code in codes):
        raise SystemExit(f"a run ended with {codes}")
    return all(code == 0 for code in codes) and (folder / END).exists()


def killed(folder: Path, number: int, seconds: float, rng: random.Random) -> tuple[str, int]:
    """A run that is killed at random until it is not; what it ended with, and how often it died."""
    deaths, after = 0, rng.uniform(0.0, seconds)
    while not run_once(folder, number, after, rng):
        deaths += 1
        after = rng.uniform(0.0, seconds) if rng.random() < 0.3 else None
    return (folder / END).read_text(), deaths


def series(root: Path, number: int, kills: int, rng: random.Random) -> dict[str, float]:
    """So many killed runs beside one that is left alone."""
    plain = root / f"plain-{number}"
    plain.mkdir()
    began = time.perf_counter()
    assert run_once(plain, number, None, rng)
    seconds, want = time.perf_counter() - began, (plain / END).read_text()
    same = total = runs = 0
    while total < kills:
        folder = root / f"killed-{number}-{runs}"
        folder.mkdir()
        digest, deaths = killed(folder, number, seconds, rng)
        runs, total, same = runs + 1, total + deaths, same + (digest == want)
        shutil.rmtree(folder)
    print(
        f"{number} process(es): {total} kills in {runs} runs of {seconds:.1f} s, {same} ended with the same bits"
    )
    return {"kills": total, "runs": runs, "same": same, "seconds": seconds}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with something done to it."""
    at, other = rng.randrange(len(data)), rng.randrange(len(data))
    match rng.randrange(5):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data + rng.randbytes(1 + rng.randrange(64))
        case 3:
            low, high = sorted((at, other))
            return data[:low] + bytes(high - low + 1) + data[high + 1 :]
        case _:
            low, high = sorted((at, other))
            return data[:low] + data[high:] + data[low:high][::-1]


def damaged(root: Path, count: int, rng: random.Random) -> dict[str, int]:
    """Mutated checkpoints: how many give a CheckpointError."""
    (path, *_) = checkpoints(root / "plain-1").values()
    good, errors = path.read_bytes(), 0
    for _ in range(count):
        while (bad := mutated(good, rng)) == good:
            pass
        path.write_bytes(bad)
        try:
            read(path)
        except rf.CheckpointError:
            errors += 1
    path.write_bytes(good)
    print(f"{count} damaged checkpoints: {errors} clear errors")
    return {"files": count, "errors": errors}


def main() -> None:
    reader = argparse.ArgumentParser()
    reader.add_argument("--kills", type=int, default=KILLS)
    reader.add_argument("--pairs", type=int, default=PAIRS)
    reader.add_argument("--mutations", type=int, default=MUTATIONS)
    asked, _ = reader.parse_known_args()
    torch.set_num_threads(1)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        one = series(root, 1, asked.kills, rng)
        two = series(root, 2, asked.pairs, rng) if asked.pairs else None
        files = damaged(root, asked.mutations, rng)
    ends = [part for part in (one, two) if part]
    wrong = any(part["same"] != part["runs"] for part in ends) or files["errors"] < files["files"]
    if (asked.kills, asked.pairs, asked.mutations) == (KILLS, PAIRS, MUTATIONS):
        save("survival", {**machine(), "one process": one, "two processes": two, "damaged": files})
    if wrong:
        raise SystemExit("some runs or files were not what they have to be")


if __name__ == "__main__":
    main()
