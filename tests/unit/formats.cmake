# What the libraries themselves made, unpacked beside the test.
set(format_records ${CMAKE_CURRENT_BINARY_DIR}/format_quantisers)
set(format_archive ${CMAKE_SOURCE_DIR}/tests/data/format_quantisers.tar.xz)
add_custom_command(OUTPUT ${format_records}/inputs.safetensors
  COMMAND ${CMAKE_COMMAND} -E tar xf ${format_archive} --touch
  WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR} DEPENDS ${format_archive} VERBATIM)
refit_test(formats
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/formats_test.cpp
          ${CMAKE_CURRENT_LIST_DIR}/formats_recorded_test.cpp
          ${CMAKE_SOURCE_DIR}/tests/support/format_reference.cpp
          ${format_records}/inputs.safetensors
  DEPENDS checkpoint kernels EXTERNAL GTest::gmock_main)
target_compile_definitions(test_formats PRIVATE REFIT_RECORDED_FORMATS="${format_records}")
