"""One adapter a model family: its chat template, its stop tokens, its parsers."""
