"""What `refold cells` tells of a cell, and the speeds that earlier calls measured. Nothing here loads torch."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from refold import cells
from refold.ir.trace import Cell
from refold.kernels import folder
from refold.kernels.choice import automatic
from refold.plan.cost import letters
from refold.plan.plan import plan
from refold.shapes import Size, volume

FILE = "speed.json"
LIMIT = 5000  # measured speeds that are kept: a zoo at some fifty sizes
PACKAGES = ("refold", "torch", "llvmlite")  # what decides how fast a cell runs


@dataclass(frozen=True, slots=True)
class Sizes:
    """For which sizes numbers are told.

    Units  threads  of torch, in a measurement
    """

    input_size: int = 16
    hidden_size: int = 64
    steps: int = 100
    batch: int = 32
    threads: int = 1

    def numbers(self, cell: Cell) -> dict[str, int]:
        """A number for every letter: those that are neither m nor n count as n."""
        others = dict.fromkeys(sorted(letters(cell.graph) - {"m", "n"}), self.hidden_size)
        return {"m": self.input_size, "n": self.hidden_size, **others}


@dataclass(frozen=True, slots=True)
class Speed:
    """Milliseconds of a training step of a cell and of torch.nn.LSTM, taken in turns."""

    cell: float
    lstm: float

    @property
    def ratio(self) -> float:
        """torch.nn.LSTM's time by the cell's: above 1 is faster."""
        return self.lstm / self.cell


@dataclass(frozen=True, slots=True)
class Entry:
    """A cell of the zoo, at some sizes."""

    cell: Cell
    family: str
    sizes: Sizes
    speed: Speed | None = None

    @property
    def use(self) -> str:
        """What it is for, in a sentence."""
        return " ".join(re.split(r"\.\s", self.cell.about)[0].split()).rstrip(".")

    @property
    def states(self) -> dict[str, Size]:
        """How many numbers each state holds."""
        return {leaf.name: volume(leaf.shape) for leaf in self.cell.graph.leaves_of("state")}

    @property
    def parameters(self) -> Size:
        """How many numbers are learned."""
        return plan(self.cell).cost.weights

    @property
    def flops(self) -> Size:
        """Multiplications and additions in the products of one step of one row."""
        return plan(self.cell).cost.step

    @property
    def backend(self) -> tuple[str, str]:
        """What a float32 layer of it runs here, and why."""
        return automatic("cpu", "float32")

    def at(self, size: Size) -> int:
        """The number that a formula gives at the sizes."""
        return size.at(
            {**self.sizes.numbers(self.cell), "T": self.sizes.steps, "B": self.sizes.batch}
        )

    def data(self) -> dict[str, Any]:
        """The same for programs."""
        backend, reason = self.backend
        return {
            "family": self.family,
            "source": self.cell.source,
            "about": self.cell.about,
            "states": {name: self._counted(size) for name, size in self.states.items()},
            "parameters": self._counted(self.parameters),
            "flops_per_step": self._counted(self.flops),
            "backend": backend,
            "reason": reason,
            "speed": None
            if self.speed is None
            else {**asdict(self.speed), "relative": self.speed.ratio},
        }

    def _counted(self, size: Size) -> dict[str, Any]:
        return {"formula": str(size), "number": self.at(size)}


def entries(sizes: Sizes) -> Iterator[Entry]:
    """Every cell of the zoo, family by family, with the speed that this machine had at these sizes."""
    known, here = recall(), _here()
    for family, members in cells.families().items():
        for cell in members.values():
            yield Entry(cell, family, sizes, known.get(_key(cell, sizes, here)))


# Measured speeds ------------------------------------------------------------------------------------------------------


def recall() -> dict[str, Speed]:
    """The speeds in the user's folder; none where there is no such file, or another program's."""
    try:
        held = json.loads((folder.place() / FILE).read_bytes())
        return {
            key: Speed(float(found["cell"]), float(found["lstm"])) for key, found in held.items()
        }
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # nothing is lost: what is unknown is measured again


def remember(cell: Cell, sizes: Sizes, speed: Speed) -> str:
    """Keep a measured speed. Gives why it could not be kept, or nothing."""
    key = _key(cell, sizes, _here())
    known = {k: found for k, found in recall().items() if k != key} | {key: speed}
    kept = list(known.items())[-LIMIT:]
    text = json.dumps({k: asdict(found) for k, found in kept}, indent=0)
    try:
        place = folder.place()
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.write(place / FILE, text.encode())
    except (OSError, RuntimeError) as fault:  # RuntimeError: a user without a home
        return f"the speeds cannot be kept: {fault}"
    return ""


def _key(cell: Cell, sizes: Sizes, here: tuple[str, ...]) -> str:
    """The name of a measured speed: all that decides it."""
    lines = [(node.op, node.args, node.shape, node.attr) for node in cell.graph.nodes]
    whole = repr((here, sizes, lines, cell.graph.outputs))
    return f"{cell.name} {sha256(whole.encode()).hexdigest()[:32]}"


def _here() -> tuple[str, ...]:
    """This machine and what runs on it."""
    vectors = os.environ.get("REFOLD_VECTORS", "")
    return (_processor(), vectors, str(os.cpu_count()), folder.sources(), *map(_version, PACKAGES))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line for line in lines if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else f"{platform.processor()} {platform.machine()}"
