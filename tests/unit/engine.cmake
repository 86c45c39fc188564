refit_test(engine
<<<<<<< HEAD
  SOURCES engine_bounds_test.cpp engine_judge_test.cpp engine_pair_tests_test.cpp case_setup_test.cpp engine_supervisor_test.cpp engine_upstream_test.cpp engine_weights_test.cpp
=======
  SOURCES engine_bounds_test.cpp engine_judge_test.cpp case_setup_test.cpp engine_supervisor_test.cpp engine_timeline_test.cpp engine_upstream_test.cpp engine_weights_test.cpp
>>>>>>> 8cb86e3fa6a7bab166ec1ecbfdf617e3f81fcaa5
  DEPENDS app test_support EXTERNAL GTest::gmock_main)
