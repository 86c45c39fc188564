add_test(NAME case_cli
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/case_cli_test.py --refit $<TARGET_FILE:refit>)
set_tests_properties(case_cli PROPERTIES TIMEOUT ${REFIT_TEST_TIMEOUT})
