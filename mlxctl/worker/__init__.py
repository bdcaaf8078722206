"""One model, one port: the process that serves a model. Never imports `mlxctl.control`."""
