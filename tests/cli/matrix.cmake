add_test(NAME matrix
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/matrix_test.py --refit $<TARGET_FILE:refit>
    --root ${CMAKE_SOURCE_DIR})
set_tests_properties(matrix PROPERTIES TIMEOUT ${REFIT_TEST_TIMEOUT} PROCESSORS 2)
