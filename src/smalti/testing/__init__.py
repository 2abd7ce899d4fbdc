"""What every composition, method and backbone promises, as checks to run on your own.

They are those that smalti's own parts pass; each raises AssertionError with what was found and what was promised.
What is public is listed in `__init__.pyi` and imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
