# shellcheck shell=bash
# Sourced by the scripts of this folder: messages, and how MPI programs are started.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# mpirun and every rank would look for an X server (hwloc's GL component), for many seconds where "localhost" does not
# resolve.
export HWLOC_COMPONENTS=${HWLOC_COMPONENTS:--gl}

say() { printf '\n== %s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Cores that this process may use: Open MPI counts cores, not hardware threads, as its slots.
cores() {
  local physical available
  available=$(nproc)
  physical=$(lscpu --parse=core,socket 2>/dev/null | grep -v '^#' | sort -u | wc -l)
  if ((physical > 0 && physical < available)); then echo "$physical"; else echo "$available"; fi
}

# launcher RANKS: fills the array `launch` with the command that starts RANKS ranks on this machine. Root and more ranks
# than cores are allowed where they occur; waiting ranks then give their core away instead of spinning on it.
launcher() {
  launch=(mpirun -np "$1")
  if [[ $(mpirun --version 2>/dev/null) != *'Open MPI'* ]]; then return 0; fi
  if ((EUID == 0)); then launch+=(--allow-run-as-root); fi
  if (($1 > $(cores))); then
    launch+=(--oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
  fi
}

# build TARGET...: configures the preset `cpu` and builds the targets (all of them if none is named).
build() {
  local options=() targets=()
  if [[ ${CI:-} == true ]]; then options+=(-D REFIT_WERROR=ON); fi
  if (($# > 0)); then targets=(--target "$@"); fi
  say "configure and build (build/cpu)"
  (cd "$root" && cmake --preset cpu "${options[@]}" && cmake --build --preset cpu "${targets[@]}")
}
