refit_test(verify_threads SOURCES verify_threads.cpp DEPENDS test_support core EXTERNAL GTest::gmock_main)
