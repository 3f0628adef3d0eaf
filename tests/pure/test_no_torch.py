"""The pure rooms need nothing but Python, and `import refold` loads nothing heavy."""

import subprocess
import sys
from pathlib import Path

HEAVY = (
    "torch",
    "numpy",
    "llvmlite",
    "triton",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "polars",
    "pandas",
    "rich",
)
SOURCE = str(Path(__file__).parents[2] / "src")

REPORT = f"""
import sys
sys.path.insert(0, {SOURCE!r})
already = set(sys.modules)
{{statements}}
loaded = {{{{name.partition(".")[0] for name in set(sys.modules) - already}}}}
print(*sorted(loaded & set({HEAVY!r})), *(["refold"] if "refold" in loaded else []))
"""


def loaded_by(*statements: str) -> list[str]:
    """Which of the heavy packages, and refold, a fresh Python has loaded after the statements."""
    program = REPORT.format(statements="\n".join(statements))
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_the_pure_rooms_load_nothing_heavy():
    assert loaded_by(
        "import refold.ir.language, refold.cells, refold.plan.plan, refold.plan.explain, refold.errors, refold.shapes",
        "cell = refold.cells.get('lstm')",
        "text = str(refold.plan.explain.explain(cell)) + refold.plan.explain.explain(cell).latex",
        "assert 'δ_h' in text and 'frac' in text",
    ) == ["refold"]


def test_the_package_loads_nothing_heavy():
    assert loaded_by(
        "import refold as rf",
        "@rf.cell\ndef c(x=rf.Input('n'), h=rf.State('n')): return rf.tanh(x + h)",
        "assert 'Recurrent' in dir(rf) and rf.explain(c).adjoint",
    ) == ["refold"]
