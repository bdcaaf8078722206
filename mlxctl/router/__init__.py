"""One address for every model: starts and stops models only through `mlxctl.control`."""
