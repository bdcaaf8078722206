"""Blocks of cached tokens: shared, counted, evicted. What a block holds is opaque here."""
