#!/usr/bin/env bash
# Runs this recipe: bash recipes/wmt17_en_de/run.sh [--smoke] [--data FOLDER] [arguments of the runner]
#   --smoke        every stage on a small made-up corpus, without a GPU: --set scale=smoke
#   --data FOLDER  what recipes.wmt17_en_de.download made: --set data.options.root=FOLDER
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
exec python -m recipes.common.run recipes/wmt17_en_de "${arguments[@]}"
