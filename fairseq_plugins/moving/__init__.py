"""Teachers that move while their student learns: ``--moving-teacher``."""

from fairseq_plugins.moving.options import MovingOptions
from fairseq_plugins.moving.teachers import MovingTeachers, moving_teachers

__all__ = ["MovingOptions", "MovingTeachers", "moving_teachers"]
