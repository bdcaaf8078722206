"""Turns a `.gguf` file of the llama family into a folder of Hugging Face layout, which `mlx_lm convert` accepts.

header      the family, read from the first bytes of the file
source      the file, or its parts, opened: metadata and tensors
llama       the family: its numbers, `config.json`, and which tensor becomes which
rope        `rope_scaling` of `config.json`
vocabulary  tokens, merges and special ids in the metadata
tokenizer   the vocabulary as `tokenizer.json`
weights     tensors dequantised into safetensors, some rows at a time
folder      the whole, in order
"""

from mlxctl.control.gguf.folder import dequantize
from mlxctl.control.gguf.header import FAMILIES, read_family

__all__ = ["FAMILIES", "dequantize", "read_family"]
