refit_test(inject
  SOURCES inject_test.cpp inject_schedules_test.cpp
  DEPENDS app EXTERNAL GTest::gmock_main)
