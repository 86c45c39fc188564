refit_test(train SOURCES train_fsdp_test.cpp train_megatron_test.cpp train_families_test.cpp train_text_families_test.cpp train_vision_test.cpp train_ranks_test.cpp train_scales_test.cpp layout_models.cpp
  DEPENDS train test_layouts EXTERNAL nlohmann_json::nlohmann_json GTest::gmock_main)
