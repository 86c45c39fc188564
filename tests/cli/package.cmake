# The library as others find it: installed, and an example built outside of the tree.
add_test(NAME package
  COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/package_test.py --build ${CMAKE_BINARY_DIR}
    --root ${CMAKE_SOURCE_DIR} --work ${CMAKE_CURRENT_BINARY_DIR}/package)
set_tests_properties(package PROPERTIES TIMEOUT ${REFIT_TEST_TIMEOUT} PROCESSORS 2)
