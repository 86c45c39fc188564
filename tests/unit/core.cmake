refit_test(core SOURCES core_blocks_test.cpp core_box_test.cpp core_console_test.cpp DEPENDS core EXTERNAL GTest::gmock_main)
