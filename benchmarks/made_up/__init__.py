"""Made-up collections for the benchmarks."""
