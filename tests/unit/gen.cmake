refit_test(gen SOURCES gen_vllm_test.cpp gen_experts_test.cpp gen_families_test.cpp gen_text_families_test.cpp gen_vision_test.cpp gen_scales_test.cpp
  gen_derived_test.cpp gen_sglang_test.cpp layout_models.cpp
  DEPENDS gen test_layouts EXTERNAL GTest::gmock_main)

# What vLLM held of quantised checkpoints, unpacked beside the test.
set(fp8_record ${CMAKE_CURRENT_BINARY_DIR}/fp8)
set(fp8_archive ${CMAKE_SOURCE_DIR}/tests/data/fp8.tar.xz)
add_custom_command(OUTPUT ${fp8_record}/index.json
  COMMAND ${CMAKE_COMMAND} -E tar xf ${fp8_archive} --touch
  WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR} DEPENDS ${fp8_archive} VERBATIM)
refit_test(gen_fp8 SOURCES ${CMAKE_CURRENT_LIST_DIR}/gen_fp8_test.cpp ${fp8_record}/index.json
  DEPENDS gen checkpoint EXTERNAL nlohmann_json::nlohmann_json GTest::gmock_main)
target_compile_definitions(test_gen_fp8 PRIVATE REFIT_RECORDED_FP8="${fp8_record}")

# What SGLang held, unpacked beside the test.
set(sglang_record ${CMAKE_CURRENT_BINARY_DIR}/sglang)
set(sglang_archive ${CMAKE_SOURCE_DIR}/tests/data/sglang.tar.xz)
add_custom_command(OUTPUT ${sglang_record}/engines/index.json
  COMMAND ${CMAKE_COMMAND} -E make_directory ${sglang_record}
  COMMAND ${CMAKE_COMMAND} -E chdir ${sglang_record} ${CMAKE_COMMAND} -E tar xf ${sglang_archive} --touch
  DEPENDS ${sglang_archive} VERBATIM)
refit_test(gen_sglang_record SOURCES ${CMAKE_CURRENT_LIST_DIR}/gen_sglang_record_test.cpp
  ${PROJECT_SOURCE_DIR}/tests/support/sha256.cpp ${sglang_record}/engines/index.json ${fp8_record}/index.json
  DEPENDS gen checkpoint EXTERNAL nlohmann_json::nlohmann_json GTest::gmock_main)
target_compile_definitions(test_gen_sglang_record PRIVATE
  REFIT_RECORDED_SGLANG="${sglang_record}/engines" REFIT_RECORDED_FP8="${fp8_record}")

# What vLLM held of quantised checkpoints of all formats, unpacked beside the test.
set(formats_record ${CMAKE_CURRENT_BINARY_DIR}/format_layouts)
set(formats_archive ${CMAKE_SOURCE_DIR}/tests/data/format_layouts.tar.xz)
add_custom_command(OUTPUT ${formats_record}/index.json
  COMMAND ${CMAKE_COMMAND} -E tar xf ${formats_archive} --touch
  WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR} DEPENDS ${formats_archive} VERBATIM)
refit_test(gen_format_layouts SOURCES ${CMAKE_CURRENT_LIST_DIR}/gen_format_layouts_test.cpp
  ${PROJECT_SOURCE_DIR}/tests/support/sha256.cpp ${formats_record}/index.json
  DEPENDS gen checkpoint EXTERNAL nlohmann_json::nlohmann_json GTest::gmock_main)
target_compile_definitions(test_gen_format_layouts PRIVATE REFIT_RECORDED_FORMATS="${formats_record}")
