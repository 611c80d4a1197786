"""The version of the plug-ins; the same as the core's."""

__version__ = "0.1.0"
