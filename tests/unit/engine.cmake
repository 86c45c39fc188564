refit_test(engine
  SOURCES engine_upstream_test.cpp
  DEPENDS app EXTERNAL GTest::gmock_main)
