refit_test(model
  SOURCES model_adapters_test.cpp model_cache_scales_test.cpp model_checkpoint_test.cpp model_config_test.cpp model_families_test.cpp model_inputs_test.cpp model_quantisation_test.cpp model_roles_test.cpp model_tensors_test.cpp model_vision_test.cpp
  DEPENDS model
  EXTERNAL GTest::gmock_main)
