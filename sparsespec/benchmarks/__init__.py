"""Benchmarks that users run: `sparsespec bench`, and what other benchmarks share with it."""
