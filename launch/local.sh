#!/usr/bin/env bash
# Start an experiment on this machine: launch/local.sh distill --workdir=runs/distill
# Relative paths are relative to the repository. To see two devices on a CPU: JAX_NUM_CPU_DEVICES=2 launch/local.sh distill --parallel=pmap
set -euo pipefail
name=${1:?usage: launch/local.sh EXPERIMENT [--flag=value ...]; experiments are the files of experiments/ without .py}
shift
cd "$(dirname "$0")/.."
if [ ! -f "experiments/$name.py" ]; then
  echo "no experiment $name; there are: $(cd experiments && ls [a-z]*.py | sed 's/\.py$//' | tr '\n' ' ')" >&2
  exit 2
fi
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" -m "experiments.$name" "$@"
