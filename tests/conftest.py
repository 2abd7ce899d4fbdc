"""Settings for every test: property tests draw the same examples on every run, and no example is timed."""

import os
from collections.abc import Iterator

# Before torch is imported, and for every process that a test starts: small networks on a few shared cores lose more by
# threads that wait for each other than they gain.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("smalti", max_examples=25, deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("smalti")

_BIT_FOR_BIT = {"cli", "contract", "training"}


@pytest.fixture(autouse=True, scope="module")
def on_the_cpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where runs are compared bit for bit they stay on the CPU on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent.name in _BIT_FOR_BIT:
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setattr(torch.cuda, "device_count", lambda: 0)
        yield
