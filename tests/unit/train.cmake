refit_test(train SOURCES train_megatron_test.cpp layout_models.cpp DEPENDS train test_layouts EXTERNAL GTest::gmock_main)
