refit_test(core SOURCES core_blocks_test.cpp core_box_test.cpp DEPENDS core EXTERNAL GTest::gtest_main)
