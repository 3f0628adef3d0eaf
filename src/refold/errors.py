"""Every error that refold raises on purpose: one tree, and one form of text.

    RefoldError
      EquationError(ValueError)   a recurrence that cannot be read, or that is used with wrong sizes
      PlanError                   a plan that cannot be made: an unknown stage or memory, an illegal graph
      KernelError(RuntimeError)   a tensor that does not fit a kernel, or a backend that cannot run
      DataError(ValueError)       a table, a file or a sequence that cannot be used
      CheckpointError             a checkpoint, or a run's folder, that cannot be written, read or resumed

A text says *where*, then *what is so* with both sides named, then *what to do*.
"""


class RefoldError(Exception):
    """Whatever refold refuses. Catch this one to catch all of them."""

    def __init__(self, fact: str, remedy: str = "", where: str = ""):
        self.fact = fact
        self.remedy = remedy
        self.where = where
        super().__init__("\n".join(part for part in (where, fact, remedy) if part))


class EquationError(RefoldError, ValueError):
    """A recurrence that cannot be read, or that is given sizes it does not have."""


class PlanError(RefoldError):
    """A plan that cannot be made: an unknown stage or memory, an illegal graph."""


class KernelError(RefoldError, RuntimeError):
    """A tensor that does not fit the kernel, or a backend that cannot run here."""


class DataError(RefoldError, ValueError):
    """A table, a file or a sequence that cannot be used."""


class CheckpointError(RefoldError):
    """A checkpoint, or a run's folder, that cannot be written, read or resumed."""
