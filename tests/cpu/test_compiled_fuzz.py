"""Random calls, right and wrong, in processes of their own: the reference's answer or an error, never the end."""

import subprocess

import pytest
from compiled import TESTS, process


def fuzz(first: int, count: int, seconds: float) -> None:
    try:
        run = process(TESTS / "fuzz.py", first, count, seconds=seconds)
    except subprocess.TimeoutExpired as late:
        printed = (late.stdout or b"").decode().split()
        pytest.fail(f"no end after {seconds} s, in call {printed[-1] if printed else 'none'}")
    lines = run.stdout.splitlines()
    told = "\n".join(line for line in lines if not line.isdigit())
    last = next((line for line in reversed(lines) if line.isdigit()), "none")
    assert run.returncode == 0, f"exit {run.returncode}, last call {last}\n{told}\n{run.stderr}"
    assert lines[-1] == f"{count} calls, 0 wrong"


@pytest.mark.parametrize("part", [0, 1])
def test_random_calls(part: int) -> None:
    fuzz(1000 * part, 1000, 120)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_random_calls(part: int) -> None:
    fuzz(10_000 + 2500 * part, 2500, 600)


WRONG = """
import os, fuzz
made = fuzz.build
def build(backend):
    layers = made("reference")
    if backend != "reference":
        for _, layer in layers:
            {change}
    return layers
fuzz.build = build
fuzz.main(0, 40)
"""
CHANGES = {
    "a number off": ("next(layer.parameters()).data.view(-1)[0] += 1e-2", "is off by"),
    "an answer to anything": ("layer.forward = lambda **k: (k['x'], k['x'])", "an answer and not"),
    "the end of the process": ("layer.forward = lambda **k: os.abort()", "0"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_fuzzer_sees(what: str) -> None:
    change, words = CHANGES[what]
    run = process("-c", WRONG.replace("{change}", change))
    assert run.returncode != 0, run.stdout
    assert words in run.stdout, run.stderr
