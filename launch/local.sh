#!/usr/bin/env bash
# Trains on all GPUs of this machine, in one process.
#
#   launch/local.sh configs/hops/pascal_part_116_b16.py runs/hops --config.mesh.fsdp=2
#   CUDA_VISIBLE_DEVICES=0,1 launch/local.sh CONFIG WORKDIR [overrides]
#
# Run it again with the same work directory to go on after an interruption. Ctrl-C or SIGTERM
# saves once and ends with 0.
set -euo pipefail

if [[ $# -lt 2 ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
config="$1" workdir="$2"
shift 2

if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  # shellcheck source=launch/env.sh
  source "$here/env.sh"
fi
exec opvseg train --config "$config" --workdir "$workdir" "$@"
