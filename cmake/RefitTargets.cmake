# How every library and test of this project is declared.

set(REFIT_WARNINGS -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wold-style-cast -Wnon-virtual-dtor)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 misreads std::string's operator+ (GCC bug 105651); clang-tidy, given the same flags, does not know this one.
  list(APPEND REFIT_WARNINGS -Wno-restrict -Wno-unknown-warning-option)
endif()
if(REFIT_WERROR)
  list(APPEND REFIT_WARNINGS -Werror)
endif()

add_library(refit_options INTERFACE)
target_compile_options(refit_options INTERFACE ${REFIT_WARNINGS})
if(REFIT_SANITIZE)
  target_compile_options(refit_options INTERFACE -fsanitize=${REFIT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(refit_options INTERFACE -fsanitize=${REFIT_SANITIZE})
endif()

# refit_library(NAME SOURCES ... DEPENDS lib ... [EXTERNAL target ...])
# One static library per folder; DEPENDS are other folders and follow the dependency rules, EXTERNAL are packages.
function(refit_library NAME)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;EXTERNAL" ${ARGN})
  add_library(refit_${NAME} STATIC ${ARG_SOURCES})
  target_include_directories(refit_${NAME} PUBLIC ${CMAKE_SOURCE_DIR}/lib ${CMAKE_SOURCE_DIR})
  list(TRANSFORM ARG_DEPENDS PREPEND refit_)
  target_link_libraries(refit_${NAME} PUBLIC ${ARG_DEPENDS} PRIVATE refit_options ${ARG_EXTERNAL})
endfunction()
