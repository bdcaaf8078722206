"""Discovery, health and typed clients for application code. Imports `mlxctl.core` alone."""
