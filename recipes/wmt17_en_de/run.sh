#!/usr/bin/env bash
# Runs this recipe: bash recipes/wmt17_en_de/run.sh [--smoke] [--data FOLDER] [arguments of the runner]
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../common/run_large.sh" wmt17_en_de "$@"
