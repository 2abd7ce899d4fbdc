"""Settings for every test: property tests draw the same examples on every run, and no example is timed."""

from hypothesis import HealthCheck, settings

settings.register_profile("smalti", max_examples=25, deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("smalti")
