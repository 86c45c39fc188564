refit_test(verify_threads SOURCES verify_threads.cpp DEPENDS test_support core EXTERNAL GTest::gmock_main)
refit_test(verify_parts SOURCES verify_parts.cpp DEPENDS verify EXTERNAL GTest::gmock_main)
refit_test(verify SOURCES verify_test.cpp verify_counts_test.cpp verify_world.cpp verify_main.cpp DEPENDS verify test_support)
refit_test(verify_quantised SOURCES verify_quantised_test.cpp verify_quantised_world.cpp verify_world.cpp verify_main.cpp
  DEPENDS verify test_support)
refit_test(verify_formats SOURCES verify_formats_test.cpp verify_world.cpp verify_main.cpp
  ${CMAKE_SOURCE_DIR}/tests/support/format_reference.cpp DEPENDS verify test_support)
