# Tests of `refit run`, `plan` and `probe` from outside: run_NAME.py, one ctest entry each, each with its own work folder.
# Their ranks wait for launchers most of the time, so that several of these tests share two cores.
function(refit_run_test NAME SCRIPT)
  add_test(NAME run_${NAME}
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/${SCRIPT} --refit $<TARGET_FILE:refit>
      --engines ${CMAKE_SOURCE_DIR}/tests/data/engines.tar.xz --inputs ${CMAKE_SOURCE_DIR}/inputs
      --work ${CMAKE_CURRENT_BINARY_DIR}/${NAME} ${ARGN})
  set_tests_properties(run_${NAME} PROPERTIES TIMEOUT ${REFIT_TEST_TIMEOUT})
endfunction()

foreach(family fsdp llama_tied qwen2_bias qwen3 qwen3_moe gpt_oss nemotron_h qwen3_next)
  refit_run_test(families_${family} run_families.py --family ${family})
endforeach()

foreach(family deepseek_v3 deepseek_v32 glm4_moe gpt_oss llama4 minimax_m2 mixtral nemotron_h qwen3 qwen3_5_moe qwen3_moe
    qwen3_next)
  refit_run_test(rows_${family} run_rows.py --family ${family})
endforeach()

set(run_tests options commit colocated documented hdf5 fp16 fp8 quantised dequantised parts kv_scales injections diagnose digest bugs bug_schedules mistakes memory values killed outputs pipelines plan probe m2n deltas replaced sweep)
set(whole "")
if(REFIT_WHOLE_RECORDS)
  set(whole --whole)
endif()
refit_run_test(engines run_engines.py ${whole})
refit_run_test(adapters run_adapters.py ${CMAKE_SOURCE_DIR}/tests/data/adapters.tar.xz)
if(NOT REFIT_SANITIZE)  # sanitizers keep freed memory, and link libraries of their own
  list(APPEND run_tests flat cluster digest_memory)
endif()
foreach(name ${run_tests})
  refit_run_test(${name} run_${name}.py)
endforeach()

add_library(drill_tool MODULE ${CMAKE_CURRENT_LIST_DIR}/drill_tool.cpp)
target_link_libraries(drill_tool PRIVATE ${CMAKE_DL_LIBS})
refit_run_test(drill run_drill.py $<TARGET_FILE:drill_tool>)

add_library(region_tool MODULE ${CMAKE_CURRENT_LIST_DIR}/region_tool.cpp)
refit_run_test(profile run_profile.py $<TARGET_FILE:region_tool>)

if(REFIT_ENABLE_CUDA)
  add_library(old_driver MODULE ${CMAKE_CURRENT_LIST_DIR}/old_driver.c)
  refit_run_test(no_driver run_no_driver.py $<TARGET_FILE:old_driver>)
endif()
