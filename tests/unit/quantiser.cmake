# What the implementations themselves made, unpacked beside the test.
set(quantiser_records ${CMAKE_CURRENT_BINARY_DIR}/quantisers)
set(quantiser_archive ${CMAKE_SOURCE_DIR}/tests/data/quantisers.tar.xz)
add_custom_command(OUTPUT ${quantiser_records}/inputs.safetensors
  COMMAND ${CMAKE_COMMAND} -E tar xf ${quantiser_archive} --touch
  WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR} DEPENDS ${quantiser_archive} VERBATIM)
refit_test(quantiser
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/quantiser_test.cpp
          ${CMAKE_CURRENT_LIST_DIR}/quantiser_recorded_test.cpp
          ${quantiser_records}/inputs.safetensors
  DEPENDS checkpoint kernels EXTERNAL GTest::gmock_main)
target_compile_definitions(test_quantiser PRIVATE REFIT_RECORDED_QUANTISERS="${quantiser_records}")
