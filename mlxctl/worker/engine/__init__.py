"""The only code that touches MLX: loads the model, keeps its caches, draws tokens. One thread."""
