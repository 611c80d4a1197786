#!/usr/bin/env bash
# What run.sh of the large recipes does: bash recipes/common/run_large.sh RECIPE [its arguments]
#   --smoke        every stage on little data, without a GPU: the same as --set scale=smoke
#   --data FOLDER  what the recipe's download made: the same as --set data.options.root=FOLDER
# Everything else goes to the runner as it is.
set -euo pipefail
recipe=$1
shift
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
exec python -m recipes.common.run "recipes/$recipe" "${arguments[@]}"
