refit_test(kernels
  SOURCES ${CMAKE_SOURCE_DIR}/tests/support/kernels_main.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_convert.cpp
          ${CMAKE_SOURCE_DIR}/tests/support/format_reference.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_copy.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_delta.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_dequantise.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_engines.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_merge.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_parts.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_quantise.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_region.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_threads.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_transform.cpp
          ${CMAKE_CURRENT_LIST_DIR}/kernels_values.cpp
  DEPENDS kernels)
