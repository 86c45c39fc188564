refit_test(session
  SOURCES ${CMAKE_SOURCE_DIR}/tests/support/kernels_main.cpp transport_models.cpp layout_models.cpp session_test.cpp
  DEPENDS session thread_links executor_harness train gen test_layouts EXTERNAL GTest::gmock_main)
set_tests_properties(session PROPERTIES PROCESSORS 2)  # ranks are threads
