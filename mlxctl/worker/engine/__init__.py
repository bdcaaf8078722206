"""The only code that touches MLX: loads the model, keeps its caches, draws tokens. One thread."""

from mlxctl.worker.engine.blas import open_fast_blas

# before any module of this room imports mlx: the dynamic linker takes the first BLAS that it finds
open_fast_blas()
