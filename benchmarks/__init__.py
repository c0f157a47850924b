"""What the product costs, each number beside its bound and beside a baseline measured in the same run: ``python -m benchmarks``."""
