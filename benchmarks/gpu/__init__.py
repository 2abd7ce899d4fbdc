"""The stages of `benchmarks.gpu_suite`."""
