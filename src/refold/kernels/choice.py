"""Which backend is taken where nobody names one, and why. No torch here: `refold cells` starts without it."""

import platform

COMPILED = "llvm"  # its module is loaded when it is first needed, the compiler with it
DTYPES = ("float32", "float64")
PROCESSORS = ("x86_64", "amd64", "aarch64", "arm64")


def automatic(device: str, dtype: str) -> tuple[str, str]:
    """What `backend="auto"` is on a kind of device and in a dtype, and the reason that a kernel gives for it."""
    if why_not := why_not_compiled(device, dtype):
        return "reference", f"auto: {why_not}"
    return COMPILED, f"auto: {dtype} on the processor is compiled"


def why_not_compiled(device: str, dtype: str) -> str:
    """Why compiled code cannot run there, or nothing."""
    if device != "cpu":
        return f"the compiler knows processors, not {device}"
    if dtype not in DTYPES:
        return f"the compiler knows float32 and float64, not {dtype}"
    if platform.machine().lower() not in PROCESSORS:
        return f"the compiler does not know the processor {platform.machine()}"
    return ""
