#!/usr/bin/env bash
# Makes a virtual environment with everything that seqdistill needs, at the versions in
# constraints.txt: some minutes and 6 GB the first time, nothing the next.
#
#   bash scripts/setup.sh                  into .venv
#   SEQDISTILL_VENV=/tmp/venv bash scripts/setup.sh
#   PYTHON=/opt/python3.12/bin/python3 bash scripts/setup.sh
#
# The environment is set up again when constraints.txt, pyproject.toml or the checkout's place
# changed. An interrupted set-up goes on where it was.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
venv="${SEQDISTILL_VENV:-$root/.venv}"
[[ "$venv" == /* ]] || venv="$PWD/$venv"
stamp="$venv/seqdistill-setup.stamp"
log="$venv/seqdistill-setup.log"

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

fingerprint() { # of everything that the environment depends on
  { printf '%s\n' "$root"; cat "$root/constraints.txt" "$root/pyproject.toml" "$root/scripts/setup.sh"; } |
    if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi
}

is_new_enough() { # fails for the shims of version managers that lead nowhere, too
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local candidate
  if [[ -n "${PYTHON:-}" ]]; then
    is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or newer"
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3.11 python3.12 python3; do
    if is_new_enough "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "found no Python 3.11 or newer (tried python3.11, python3.12 and python3)." \
    "Install one, or say where it is: PYTHON=/path/to/python3.11 bash scripts/setup.sh"
}

check_build_tools() { # fairseq has C++ parts and comes as source only
  command -v c++ >/dev/null || command -v g++ >/dev/null ||
    fail "found no C++ compiler, and fairseq has to be compiled. Install one (Debian: apt install g++)"
  "$1" -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' ||
    fail "$1 has no header files, and fairseq has to be compiled. Install them (Debian: apt install python3-dev)"
  "$1" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$1 cannot make virtual environments. Install its venv package (Debian: apt install python3-venv)"
}

step() { # step "what" command…: one line, with the time it took; the output goes to the log
  local what="$1" begin=$SECONDS
  shift
  printf 'setup: %s … ' "$what" >&2
  if "$@" >>"$log" 2>&1; then
    printf '%s s\n' "$((SECONDS - begin))" >&2
  else
    printf 'failed\n' >&2
    tail -n 25 "$log" >&2
    fail "$what failed; the whole log: $log"
  fi
}

pip_install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --quiet \
    --constraint "$root/constraints.txt" "$@"
}

wanted="$(fingerprint)"
if [[ -f "$stamp" && "$(<"$stamp")" == "$wanted" && -x "$venv/bin/python" ]]; then
  exit 0
fi

export PIP_ROOT_USER_ACTION=ignore
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  python="$(find_python)"
  check_build_tools "$python"
  printf 'setup: new environment in %s (once: some minutes, 6 GB)\n' "$venv" >&2
  "$python" -m venv --clear "$venv"
fi
rm -f "$stamp"
: >"$log"

cd "$root"
# The order matters: fairseq's build imports torch, so it is built in this environment and not in an
# isolated one, which in turn needs what builds it.
step "torch" pip_install torch
step "what builds fairseq" pip_install cython "setuptools>=77,<82" wheel ninja numpy
step "fairseq (compiled, some minutes)" pip_install --no-build-isolation fairseq-fixed
step "seqdistill" pip_install --no-build-isolation --editable ".[fairseq,report,speech,wer,deepspeed,dev]"
# By this environment's ninja, as later: another version would compile them again.
step "DeepSpeed's collectives and Adam for CPU processes (compiled once)" \
  env DS_ACCELERATOR=cpu PATH="$venv/bin:$PATH" "$venv/bin/python" -c \
  'from deepspeed.accelerator import get_accelerator as a
for name in ("ShareMemCommBuilder", "CPUAdamBuilder"):
    a().create_op_builder(name).load()'
step "kernels (compiled once; without a C++ compiler plain PyTorch is used)" "$venv/bin/seqdistill" doctor
printf '%s\n' "$wanted" >"$stamp"
printf 'setup: done in %s s; activate it with: . %s/bin/activate\n' "$SECONDS" "$venv" >&2
