refit_test(gen SOURCES gen_vllm_test.cpp gen_experts_test.cpp gen_families_test.cpp layout_models.cpp
  DEPENDS gen test_layouts EXTERNAL GTest::gmock_main)
