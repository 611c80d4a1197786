#!/usr/bin/env bash
# Runs this recipe: bash recipes/librispeech/run.sh [--smoke] [--data FOLDER] [arguments of the runner]
#   --smoke        every stage on little data, without a GPU: the same as --set scale=smoke
#   --data FOLDER  split folders in LibriSpeech's layout: the same as --set data.options.root=FOLDER
set -euo pipefail
arguments=()
while (($#)); do
    case "$1" in
        --smoke) arguments+=(--set scale=smoke) ;;
        --data)
            if (($# < 2)); then
                echo "error: --data expects a folder" >&2
                exit 2
            fi
            shift
            # Absolute, since recipes run from the checkout; in quotes, since settings are YAML.
            arguments+=(--set "data.options.root=\"$(realpath -m -- "$1")\"")
            ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec python -m recipes.common.run recipes/librispeech "${arguments[@]}"
