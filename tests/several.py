"""Several processes that train one network, for tests: a host that loads everything once, and forks.

The host runs no threads, so a fork of it is sound; pytest's own process may run some. Nothing here waits for a time to
pass: what happens to a run happens in it, after a step.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

import refold as rf
from refold.train.workers import workers

# A process that hangs is ended by the system: far above what a loaded machine takes, far below gloo's half an hour.
LIMIT = 120
REFUSED = 3


@dataclass(frozen=True, slots=True)
class Case:
    """What the processes do.

    after  (rank, step, signal): the process that sends itself a signal when it has taken a step
    wrong  a sequence whose targets are too large for float32 once they are squared
    apart  a process that brings other data than the others
    """

    lengths: tuple[int, ...] = (9, 30, 4, 17, 22, 6, 13, 28, 11, 5, 19)
    silent: tuple[int, ...] = ()  # sequences whose mask counts nothing
    batch_size: int = 3
    epochs: int = 3
    gradient: tuple[int, int] | None = None
    sequences: str = "mean"
    dtype: str = "float32"
    dropout: float = 0.0
    learn_state: bool = False
    target: str = "steps"
    omega: float | None = None
    average: float | None = None
    times: int = 1
    save_every: int | None = None
    after: tuple[int, int, int] | None = None
    wrong: int | None = None
    apart: int | None = None


def data(case: Case) -> rf.Sequences:
    """Echoes of what was two steps before, ragged; the last fifth of time is not trained on."""
    draw = torch.Generator().manual_seed(1)
    x = [torch.randn(n, 2, generator=draw, dtype=getattr(torch, case.dtype)) for n in case.lengths]
    d = [part[:, :1].roll(2, 0) for part in x]
    if case.target == "sequence":
        d = [part.mean(0) for part in d]
    if case.wrong is not None:
        d[case.wrong] = d[case.wrong] * 1e30
    mask = [torch.ones(part.shape[:-1], dtype=torch.bool) for part in d]
    for row in case.silent:
        mask[row] = torch.zeros_like(mask[row])
    return rf.Sequences(x, d, mask if case.silent else None)


def network(case: Case, seed: int = 1) -> rf.Network:
    torch.manual_seed(seed)
    shape: Any = "many-to-one" if case.target == "sequence" else "many-to-many"
    more: Any = {"num_layers": 2, "dropout": case.dropout} if case.dropout else {}
    layer = rf.Recurrent("gru", 2, 5, learn_state=case.learn_state, **more)
    return rf.Network(layer, head=1, shape=shape).to(getattr(torch, case.dtype))


def trained(
    case: Case, folder: Path, distributed: bool = False, rank: int = 0
) -> tuple[rf.Run, list[Tensor]]:
    """A run and its weights. The first process's first weights count: each draws others."""
    settings: Any = rf.Fit(
        epochs=case.epochs,
        rate=1e-2,
        batch_size=case.batch_size,
        gradient=rf.Truncated(*case.gradient) if case.gradient else rf.Full(),
        sequences=case.sequences,  # type: ignore[arg-type]
        omega=None if case.omega is None else rf.Omega(case.omega),
        average=case.average,
        log=folder / "log.jsonl",
    )
    net = network(case, seed=1 + rank)
    saving: Any = {}
    if case.save_every:
        plan = rf.Checkpoint(folder / "run", steps=case.save_every)
        saving = {"checkpoint": plan, "resume": True}
    run = rf.fit(net, data(case), settings, distributed=distributed, **saving)
    return run, [p.detach() for p in net.parameters()]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# In a forked process


def told(case: Case, folder: Path, rank: int) -> dict[str, Any]:
    """What one of several processes ends with."""
    if case.after and case.after[0] == rank:
        signal_after(*case.after[1:])
    if case.apart is not None:
        with workers(True, torch.device("cpu")) as team:
            team.agree({"sequences": 11, "steps": 100 + (rank == case.apart)})
    for _ in range(case.times - 1):
        trained(case, folder, distributed=True, rank=rank)
    run, weights = trained(case, folder, distributed=True, rank=rank)
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.numpy().tobytes())
    return {
        "train": run.train,
        "validation": run.validation,
        "steps": run.steps,
        "resumed": run.resumed,
        "weights": [weight.tolist() for weight in weights],
        "digest": digest.hexdigest(),
    }


def signal_after(step: int, number: int) -> None:
    taken = iter(range(1, step + 1))

    def count(*_: object) -> None:
        if next(taken, step) == step:
            os.kill(os.getpid(), number)

    register_optimizer_step_post_hook(count)


def one_of(case: Case, folder: Path, rank: int, number: int, port: int) -> None:
    """One process, to its end."""
    signal.alarm(LIMIT)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code, found = 1, {}
    try:
        found, code = told(case, folder, rank), 0
    except rf.RefoldError as error:
        found, code = {"error": str(error)}, REFUSED
    except SystemExit as stop:
        code = int(stop.code or 0)
    except Exception:
        traceback.print_exc()
    finally:
        (folder / f"{rank}.json").write_text(json.dumps(found))
        os._exit(code)


def serve() -> None:
    """Read what to run, line by line; tell the exit codes."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        asked = json.loads(line)
        number, folder = asked["number"], Path(asked["folder"])
        case, port, children = Case(**asked["case"]), free_port(), []
        for rank in range(number):
            child = os.fork()
            if not child:
                one_of(case, folder, rank, number, port)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# In the test's process


class Host:
    """A process that forks others when it is asked to."""

    def __init__(self) -> None:
        words = [sys.executable, "-c", "import several; several.serve()"]
        path = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, env=env, stdin=pipe, stdout=pipe, text=True)

    def run(
        self, case: Case, folder: Path, number: int = 2
    ) -> tuple[list[int], list[dict[str, Any]]]:
        """The exit codes and what each process has left behind; {} from one that was killed."""
        assert self._process.stdin and self._process.stdout
        for old in folder.glob("[0-9].json"):
            old.unlink()
        asked = {"case": asdict(case), "folder": str(folder), "number": number}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        codes = json.loads(self._process.stdout.readline())
        files = [folder / f"{rank}.json" for rank in range(number)]
        return codes, [json.loads(f.read_text()) if f.exists() else {} for f in files]

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
