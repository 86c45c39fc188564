refit_test(engine
  SOURCES engine_bounds_test.cpp engine_judge_test.cpp engine_pair_tests_test.cpp case_setup_test.cpp engine_supervisor_test.cpp engine_upstream_test.cpp engine_weights_test.cpp
  DEPENDS app test_support EXTERNAL GTest::gmock_main)
