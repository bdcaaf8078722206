"""The bars of the worker, figure by figure: what the benchmark's table consists of."""

from __future__ import annotations

from collections.abc import Sequence

from bench.worker.verdict import Bar

OURS, ENGINE, GENERATOR = "mlxctl worker", "our engine", "BatchGenerator"
MLX_LM, VLLM_MLX, MLX_OPENAI_SERVER = "mlx_lm.server", "vllm-mlx", "mlx-openai-server"
SERVERS = (MLX_LM, VLLM_MLX, MLX_OPENAI_SERVER)
EVEN = (1, 8, 16)
SHORT_NAMES = {
    "mlx-lm": MLX_LM,
    "vllm-mlx": VLLM_MLX,
    "mlx-openai-server": MLX_OPENAI_SERVER,
    "batch-generator": GENERATOR,
}
"""What `--peers` takes."""


def bars(peers: Sequence[str]) -> list[Bar]:
    """All rows, in the order of the table; `peers` are the servers of `SERVERS` to stand beside."""
    rows: list[Bar] = []
    for count in EVEN:
        title, figure = f"decode tokens/s, {count} even", f"even-{count}"
        rows.append(Bar(title, figure, ENGINE, GENERATOR, limit=0.95, ties=True))
        rows += [Bar(title, figure, OURS, peer, limit=1.0, ties=True) for peer in peers]
        rows += [Bar(f"prompts included, {count} even", f"{figure}-whole", OURS, peer) for peer in peers]
    rows += [
        Bar("decode tokens/s, 7 short and one of 2,048", "skew", ENGINE, GENERATOR, limit=1.5),
        Bar("KV bytes, 7 short and one of 2,048", "skew-kv", ENGINE, GENERATOR, at="most", limit=0.5),
        Bar("all of MLX's bytes beside the weights, the same", "skew-memory", ENGINE, GENERATOR),
        Bar("first token s, joining one stream", "join", OURS, MLX_LM, at="most", limit=0.3),
        Bar("first token s, joining with a seed", "join-seed", OURS, OURS, "join", at="most", limit=1.5),
        Bar("the same there", "join-seed", MLX_LM, MLX_LM, "join"),
        Bar("first token s of the next one after the seed", "join-after-seed", OURS, MLX_LM),
        Bar("last first token s, 8 with one prefix of 800", "prefix-last", OURS, MLX_LM, at="most", limit=0.1),
        Bar("last first token s, 8 more with that prefix", "prefix-known-last", OURS, MLX_LM),
        Bar("first token s, prefix known", "prefix-warm", OURS, OURS, "prefix-alone", at="most", limit=1.6),
        Bar("longest gap over the usual, 1,500 tokens arrive", "arrival-gap", OURS, at="most", limit=5.0),
        Bar("the same there", "arrival-gap", MLX_LM),
        Bar("first token s of those 1,500 tokens", "arrival-wait", OURS, MLX_LM),
        Bar("ms that HTTP adds to a request", "overhead-ms", OURS, at="most", limit=2.0),
    ]
    return rows + [
        Bar(f"decode tokens/s, {count} even, over HTTP", f"even-{count}", OURS, ENGINE, limit=0.95, ties=True)
        for count in EVEN
    ]
