"""`python -m bench worker`: the batching worker beside mlx-lm's BatchGenerator and today's servers."""
