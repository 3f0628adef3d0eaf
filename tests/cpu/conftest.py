"""What all tests share: one thread a process (the suite runs a process on each core), and the command as a function."""

import sys

import pytest
import torch

from refold.cli.main import run

torch.set_num_threads(1)


@pytest.fixture
def refold(monkeypatch, capsys, tmp_path):
    """Run the command in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["refold", *map(str, words)])
        code = 0
        try:
            run()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call
