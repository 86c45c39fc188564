refit_test(plan SOURCES plan_property_test.cpp plan_stream_test.cpp plan_cost_test.cpp plan_model_test.cpp plan_policy_test.cpp
        plan_reshard_test.cpp plan_bound_test.cpp plan_engines_test.cpp
  DEPENDS plan train gen report test_layouts EXTERNAL GTest::gmock_main)
