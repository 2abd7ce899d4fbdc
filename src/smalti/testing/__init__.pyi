from .composition import check_composition
from .images import Images, textured
from .method import check_backbone, check_method, check_processes

__all__ = ["Images", "check_backbone", "check_composition", "check_method", "check_processes", "textured"]
