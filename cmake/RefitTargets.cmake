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
  target_include_directories(refit_${NAME} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/lib> $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>
                                                  $<INSTALL_INTERFACE:include/refit>)
  list(TRANSFORM ARG_DEPENDS PREPEND refit_)
  target_link_libraries(refit_${NAME} PUBLIC ${ARG_DEPENDS} PRIVATE refit_options ${ARG_EXTERNAL})
endfunction()

# refit_runs_once(TARGET): of TARGET's sources nothing is in a loop over elements or copies: half of the time to compile
# them would go into optimising what nobody waits for.
function(refit_runs_once TARGET)
  target_compile_options(${TARGET} PRIVATE $<$<CONFIG:Release>:-O1>)
endfunction()

# refit_uses_kokkos(TARGET): all sources of TARGET include Kokkos. Where that is built for CUDA, its nvcc compiles them;
# warnings are left to host builds then, as they would be about the code that nvcc generates.
function(refit_uses_kokkos TARGET)
  target_link_libraries(${TARGET} PRIVATE refit::kokkos)
  if(RefitKokkos_CUDA)
    target_compile_options(${TARGET} PRIVATE --expt-relaxed-constexpr)
    target_compile_definitions(${TARGET} PRIVATE FMT_USE_CONSTEXPR=1)  # {fmt} 9 turns half of it off for nvcc
    if(REFIT_WERROR)
      target_compile_options(${TARGET} PRIVATE --Werror=cross-execution-space-call)
    endif()
    set_target_properties(${TARGET} PROPERTIES CXX_COMPILER_LAUNCHER "${RefitKokkos_LAUNCHER}")
  else()
    target_link_libraries(${TARGET} PRIVATE refit_options)
  endif()
endfunction()

# refit_kokkos_sources(NAME source ...): adds sources that include Kokkos to a library of refit_library.
function(refit_kokkos_sources NAME)
  add_library(refit_${NAME}_kokkos OBJECT ${ARGN})
  refit_uses_kokkos(refit_${NAME}_kokkos)
  target_include_directories(refit_${NAME}_kokkos PRIVATE ${CMAKE_SOURCE_DIR}/lib ${CMAKE_SOURCE_DIR})
  target_link_libraries(refit_${NAME}_kokkos PRIVATE fmt::fmt)
  target_sources(refit_${NAME} PRIVATE $<TARGET_OBJECTS:refit_${NAME}_kokkos>)
  target_link_libraries(refit_${NAME} INTERFACE $<LINK_ONLY:refit::kokkos>)
endfunction()
