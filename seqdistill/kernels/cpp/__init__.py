"""The loss's row operations in C++ with vector code, compiled at first use."""

from seqdistill.kernels.cpp.backend import CppRows, cpp_status

__all__ = ["CppRows", "cpp_status"]
