"""`sparsespec bench` by another name."""

from sparsespec.benchmarks.report import exit_with
from sparsespec.benchmarks.throughput import main

exit_with(main)
