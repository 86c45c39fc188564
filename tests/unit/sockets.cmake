refit_test(sockets SOURCES sockets_threads_test.cpp DEPENDS transport test_support transport_checks EXTERNAL GTest::gmock_main)
refit_test(sockets_failures SOURCES sockets_failures_test.cpp DEPENDS transport forked_ranks EXTERNAL GTest::gmock_main)
set_tests_properties(sockets sockets_failures PROPERTIES PROCESSORS 2)
