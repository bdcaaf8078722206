"""mlxctl: one command that owns the ports on which a Mac serves its language models."""

__version__ = "0.1.0"
