refit_test(transport
  SOURCES ${CMAKE_SOURCE_DIR}/tests/support/kernels_main.cpp transport_models.cpp layout_models.cpp
          transport_models_test.cpp
          transport_delta_test.cpp transport_tuning_test.cpp transport_random_test.cpp transport_agree_test.cpp transport_block_shares_test.cpp transport_together_test.cpp
          transport_host_chain_test.cpp transport_rounds_test.cpp
  DEPENDS executor_harness train gen test_layouts)
set_tests_properties(transport PROPERTIES PROCESSORS 2)  # ranks are threads
