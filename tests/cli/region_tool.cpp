// A Kokkos tool that prints where regions begin and end, one line each: process, "push" or "pop", name.

#include <unistd.h>

#include <cstdio>

extern "C" void kokkosp_push_profile_region(const char* name) { std::fprintf(stderr, "%d push %s\n", getpid(), name); }

extern "C" void kokkosp_pop_profile_region() { std::fprintf(stderr, "%d pop\n", getpid()); }
