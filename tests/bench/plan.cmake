add_executable(bench_plan ${CMAKE_CURRENT_LIST_DIR}/plan_bench.cpp)
target_link_libraries(bench_plan PRIVATE refit_plan refit_train refit_gen refit_options benchmark::benchmark)
target_compile_definitions(bench_plan PRIVATE REFIT_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
