#!/usr/bin/env bash
# Every check that a change has to pass: style, types, tests. Sets the environment up if need be.
# Arguments go to pytest: bash scripts/test.sh -m "not slow" tests/unit
# Tests run in two processes, a file in one of them; SEQDISTILL_TEST_PROCESSES=8 for more, 0 for none.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
bash "$root/scripts/setup.sh"
bin="$(cd "${SEQDISTILL_VENV:-$root/.venv}/bin" && pwd -P)"
cd "$root"

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
exec "$bin/python" -m pytest --numprocesses "${SEQDISTILL_TEST_PROCESSES:-2}" --dist loadfile "$@"
