"""From a model's tokens to what was said: content, reasoning and tool calls, piece by piece."""
