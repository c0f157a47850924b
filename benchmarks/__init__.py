"""What the product costs: each number beside its bound and a baseline of the same run (``python -m benchmarks``)."""
