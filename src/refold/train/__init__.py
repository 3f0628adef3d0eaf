"""Training: errors, backpropagation through time, and the loop."""
