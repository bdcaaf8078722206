#!/bin/sh
# Installs mlx-openai-server for `--model-type lm` on a CPU into a virtual environment of its own.
#   install.sh DESTINATION      PYTHON=python3.12 install.sh DESTINATION
# Does nothing when DESTINATION already holds exactly these versions.
set -eu

version=1.8.1
torch=2.13.0

if [ "$#" -ne 1 ]; then
    echo "usage: $0 DESTINATION" >&2
    exit 2
fi
dest=$1
overrides=$(cd "$(dirname "$0")" && pwd)/overrides.txt
wanted="mlx-openai-server $version torch $torch overrides $(cksum <"$overrides")"
stamp=$dest/installed-versions

if [ -x "$dest/bin/mlx-openai-server" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "mlx-openai-server $version is already in $dest"
    exit 0
fi

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || {
    echo "mlx-openai-server $version needs Python 3.11 or 3.12; set PYTHON to one" >&2
    exit 1
}
if [ ! -e "$dest/pyvenv.cfg" ] && [ -n "$(ls -A "$dest" 2>/dev/null)" ]; then
    echo "$dest exists and is not a virtual environment; it is left alone" >&2
    exit 1
fi
"$python" -m venv --clear "$dest"

# A pyenv shim named uv can exist and still fail, so uv is asked and not only looked for.
if uv --version >/dev/null 2>&1; then
    uv=uv
else
    "$dest/bin/pip" install --quiet uv
    uv=$dest/bin/uv
fi

# pip goes first: its own configuration can name a CPU build of torch, and uv does not read it.
# --no-deps keeps gigabytes of CUDA packages away until the build pip chose is known.
"$dest/bin/pip" install --quiet --no-deps "torch==$torch"
"$dest/bin/python" - <<'CHECK'
import importlib.metadata as metadata
import sys

if sys.platform == "linux" and any(r.startswith(("nvidia-", "cuda-")) for r in metadata.requires("torch") or []):
    sys.exit("pip chose the CUDA build of torch; set PIP_FIND_LINKS or PIP_INDEX_URL to where the CPU build is")
CHECK

"$uv" pip install --quiet --compile-bytecode --python "$dest/bin/python" \
    "mlx-openai-server==$version" 'mlx[cpu]' "torch==$torch" --override "$overrides"
"$dest/bin/mlx-openai-server" --version >/dev/null
echo "$wanted" >"$stamp"
echo "installed mlx-openai-server $version in $dest"
