// A source with nothing but the headers that tests/CMakeLists.txt has parsed for all tests.
