refit_test(layout SOURCES layout_partition_test.cpp layout_parameter_test.cpp layout_coverage_test.cpp layout_joined_test.cpp layout_adapters_test.cpp layout_models.cpp
  DEPENDS train gen test_layouts EXTERNAL GTest::gmock_main)
