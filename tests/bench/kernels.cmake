add_executable(bench_kernels ${CMAKE_CURRENT_LIST_DIR}/kernels_bench.cpp)
target_link_libraries(bench_kernels PRIVATE refit_kernels refit_options benchmark::benchmark)
