"""Measured figures against their targets: `python -m benchmarks.run`, and `python -m benchmarks.gpu_suite` on a GPU."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("smalti") is None:  # a checkout that was not installed
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
