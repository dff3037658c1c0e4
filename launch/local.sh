#!/usr/bin/env bash
# Start an experiment on this machine: launch/local.sh distill --workdir=runs/distill
# Relative paths are relative to the repository. To see two devices on a CPU: JAX_NUM_CPU_DEVICES=2 launch/local.sh distill --parallel=pmap
set -euo pipefail
name=${1:?usage: launch/local.sh EXPERIMENT [--flag=value ...]; an experiment is a file or a folder of experiments/, such as distill or benchmarks.speed}
shift
cd "$(dirname "$0")/.."
path=experiments/${name//.//}
if [ ! -f "$path.py" ] && [ ! -f "$path/__main__.py" ]; then
  echo "no experiment $name; there are: $(grep -rl --include='*.py' 'command\.start(' experiments | sed 's:^experiments/::; s:/__main__\.py$::; s:\.py$::; s:/:.:' | sort | tr '\n' ' ')" >&2
  exit 2
fi
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" -m "experiments.$name" "$@"
