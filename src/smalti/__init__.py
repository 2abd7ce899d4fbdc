"""Self-supervised visual pre-training by composing views out of several images.

What is public is listed in `__init__.pyi` and imported when first used, so that `import smalti` is instant.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
