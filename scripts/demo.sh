#!/usr/bin/env bash
# From a fresh checkout to a report: sets the environment up if need be, then runs the demo recipe.
# Arguments go to the recipe's runner: bash scripts/demo.sh --set scale=tiny
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
bash "$root/scripts/setup.sh"
bin="$(cd "${SEQDISTILL_VENV:-$root/.venv}/bin" && pwd -P)"
cd "$root"
exec "$bin/python" -m recipes.common.run recipes/demo "$@"
