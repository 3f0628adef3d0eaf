"""`make bench`: every script, one after the other. An hour on two cores; let nothing else run."""

import time

from bench import (
    compiled_build,
    compiled_cells,
    compiled_limits,
    compiled_memory,
    compiled_speed,
    dropin,
    dynamics,
    forecast_examples,
    forecast_speed,
    layer_speed,
    memory_tasks,
    omega,
    pendulum,
    scale,
    survival,
    training_loop,
    zoo,
)

SCRIPTS = (
    compiled_speed,
    compiled_cells,
    compiled_limits,
    compiled_build,
    compiled_memory,
    dropin,
    zoo,
    layer_speed,
    omega,
    dynamics,
    training_loop,
    scale,
    memory_tasks,
    survival,
    forecast_examples,
    pendulum,
    forecast_speed,
)

if __name__ == "__main__":
    for script in SCRIPTS:
        began = time.perf_counter()
        script.main()
        print(f"{script.__name__}: {time.perf_counter() - began:.0f} s\n", flush=True)
