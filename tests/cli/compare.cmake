add_test(NAME compare_results
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/compare_test.py --root ${CMAKE_SOURCE_DIR})
set_tests_properties(compare_results PROPERTIES TIMEOUT ${REFIT_TEST_TIMEOUT})
