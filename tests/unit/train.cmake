refit_test(train SOURCES train_fsdp_test.cpp train_megatron_test.cpp train_pipeline_test.cpp train_families_test.cpp train_text_families_test.cpp train_vision_test.cpp train_ranks_test.cpp train_scales_test.cpp layout_models.cpp
  DEPENDS train test_layouts EXTERNAL nlohmann_json::nlohmann_json GTest::gmock_main)

# What Megatron-Core held with pipelines of its own kinds, and the checkpoints, unpacked beside the test.
set(records ${CMAKE_CURRENT_BINARY_DIR}/pipelines_record)
foreach(archive engines pipelines)
  set(file ${CMAKE_SOURCE_DIR}/tests/data/${archive}.tar.xz)
  add_custom_command(OUTPUT ${records}/${archive}/index.json
    COMMAND ${CMAKE_COMMAND} -E make_directory ${records}
    COMMAND ${CMAKE_COMMAND} -E chdir ${records} ${CMAKE_COMMAND} -E tar xf ${file} --touch
    DEPENDS ${file} VERBATIM)
endforeach()
refit_test(train_pipelines_record SOURCES ${CMAKE_CURRENT_LIST_DIR}/train_pipelines_record_test.cpp
  ${records}/engines/index.json ${records}/pipelines/index.json
  DEPENDS train checkpoint EXTERNAL nlohmann_json::nlohmann_json GTest::gmock_main)
target_compile_definitions(test_train_pipelines_record PRIVATE
  REFIT_RECORDED_ENGINES="${records}/engines" REFIT_RECORDED_PIPELINES="${records}/pipelines")
