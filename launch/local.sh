#!/usr/bin/env bash
# Start an experiment on this machine: launch/local.sh distill --workdir=runs/distill
# Relative paths are relative to the repository. To see two devices on a CPU: JAX_NUM_CPU_DEVICES=2 launch/local.sh distill --parallel=pmap
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" -m experiments "$@"
