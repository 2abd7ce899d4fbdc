"""Settings for every test: property tests draw the same examples on every run, and no example is timed."""

import os

# Before torch is imported, and for every process that a test starts: small networks on a few shared cores lose more by
# threads that wait for each other than they gain.
os.environ["OMP_NUM_THREADS"] = "1"

from hypothesis import HealthCheck, settings

settings.register_profile("smalti", max_examples=25, deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("smalti")
