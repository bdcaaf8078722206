"""Decides who runs next. Pure: no clock, no thread, no MLX."""
