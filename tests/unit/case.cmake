refit_test(case
  SOURCES case_parallelism_test.cpp case_keys_test.cpp case_reader_test.cpp case_check_test.cpp case_drill_test.cpp
  DEPENDS app EXTERNAL GTest::gmock_main)
