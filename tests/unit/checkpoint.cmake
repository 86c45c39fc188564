refit_test(checkpoint
  SOURCES ${CMAKE_SOURCE_DIR}/tests/support/kernels_main.cpp
          ${CMAKE_CURRENT_LIST_DIR}/checkpoint_support.cpp
          ${CMAKE_CURRENT_LIST_DIR}/checkpoint_header_test.cpp
          ${CMAKE_CURRENT_LIST_DIR}/checkpoint_index_test.cpp
          ${CMAKE_CURRENT_LIST_DIR}/checkpoint_hdf5_test.cpp
          ${CMAKE_CURRENT_LIST_DIR}/checkpoint_read_test.cpp
          ${CMAKE_CURRENT_LIST_DIR}/checkpoint_dequantise_test.cpp
          ${CMAKE_CURRENT_LIST_DIR}/checkpoint_write_test.cpp
          ${CMAKE_CURRENT_LIST_DIR}/checkpoint_compare_test.cpp
  DEPENDS checkpoint
  EXTERNAL refit::hdf5 nlohmann_json::nlohmann_json)
