#!/usr/bin/env bash
# Runs this recipe; arguments go to the runner: bash recipes/an4/run.sh --stages 5-8 --dry-run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec python -m recipes.common.run recipes/an4 "$@"
