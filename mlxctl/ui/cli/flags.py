"""Flags that several commands share, declared once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mlxctl.control.commands.load import LoadFlags

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, for scripts.")]
NoSync = Annotated[bool, typer.Option("--no-sync", help="Do not tell the gateway.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="An id, ORG/NAME, a folder, or a .gguf file.")]
PortOrModel = Annotated[str, typer.Argument(metavar="PORT|MODEL", help="A port, or a registered model.")]
EngineFlag = Annotated[str | None, typer.Option("--engine", help="auto, worker, mlx-lm, mlx-openai-server or command.")]
Convert = Annotated[str, typer.Option("--convert", help="auto, force or skip.")]
Preconverted = Annotated[
    str, typer.Option("--preconverted", help="Whether the files are MLX's already: yes, no or auto.")
]
Name = Annotated[str | None, typer.Option("--name", help="Id to register under; mlx- is put in front.")]
NoOffload = Annotated[
    bool, typer.Option("--no-offload-og", help="Keep base weights where they are after a conversion.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Load although memory seems too small. Never takes a stranger's port.")
]
Quantize = Annotated[bool, typer.Option("--quantize", "-q", help="Quantise while converting.")]
Bits = Annotated[int | None, typer.Option("--bits", min=2, max=8, help="Bits a weight; implies --quantize.")]
GroupSize = Annotated[int | None, typer.Option("--group-size", min=1, help="Weights a group; implies --quantize.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float16, bfloat16 or float32.")]


def load_flags(
    engine: str | None,
    convert: str,
    preconverted: str,
    quantize: bool,
    bits: int | None,
    group_size: int | None,
    dtype: str | None,
    name: str | None,
    no_offload_og: bool,
    force: bool,
    no_sync: bool,
) -> LoadFlags:
    from mlxctl.control.commands.load import LoadFlags
    from mlxctl.control.convert import Conversion

    conversion = Conversion(
        convert=convert, preconverted=preconverted, quantize=quantize, bits=bits, group_size=group_size, dtype=dtype
    )
    plain = conversion == Conversion()
    return LoadFlags(
        engine=engine,
        name=name,
        conversion=None if plain else conversion,
        no_offload_og=no_offload_og,
        force=force,
        no_sync=no_sync,
    )
