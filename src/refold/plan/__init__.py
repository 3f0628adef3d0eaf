"""From the graph of a step to what a kernel runs: adjoint, split around the loop, stages, what is kept, costs."""
