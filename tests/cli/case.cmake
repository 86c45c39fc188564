add_test(NAME case_cli
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/case_cli_test.py --refit $<TARGET_FILE:refit>)
set_tests_properties(case_cli PROPERTIES TIMEOUT ${REFIT_TEST_TIMEOUT})
add_test(NAME manual
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/manual_test.py --refit $<TARGET_FILE:refit> --inputs ${CMAKE_SOURCE_DIR}/inputs)
set_tests_properties(manual PROPERTIES TIMEOUT ${REFIT_TEST_TIMEOUT})
add_test(NAME configs
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/run_configs.py --refit $<TARGET_FILE:refit>
    --configs ${CMAKE_SOURCE_DIR}/tests/data/configs.json
    --archive ${CMAKE_SOURCE_DIR}/tests/data/transformers_configs.tar.xz
    --totals ${CMAKE_SOURCE_DIR}/tests/data/transformers_totals.json)
set_tests_properties(configs PROPERTIES TIMEOUT ${REFIT_TEST_TIMEOUT})
