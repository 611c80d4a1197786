#!/usr/bin/env bash
# Runs this recipe: bash recipes/librispeech/run.sh [--smoke] [--data FOLDER] [arguments of the runner]
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../common/run_large.sh" librispeech "$@"
