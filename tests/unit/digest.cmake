refit_test(digest SOURCES digest_forms_test.cpp digest_within_test.cpp DEPENDS digest EXTERNAL GTest::gmock_main)
