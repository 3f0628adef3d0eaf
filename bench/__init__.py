"""One script per question; each writes its JSON to bench/results and its table into docs."""
