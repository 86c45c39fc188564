refit_test(foreign_memory
  SOURCES foreign_memory_test.cpp DEPENDS transport process_control EXTERNAL GTest::gmock_main)
