# MPICH beside the MPI of this build. Of all sources only those of lib/transport/mpi know mpi.h: they are compiled a second time,
# and what needs them is linked a second time, to them: refit as refit_mpich, test_mpi_NAME as test_mpich_NAME.
find_package(PkgConfig QUIET)
if(PKG_CONFIG_FOUND)
  pkg_check_modules(MPICH QUIET IMPORTED_TARGET mpich)
endif()
find_program(REFIT_MPICH_MPIEXEC mpiexec.mpich)
if(NOT MPICH_FOUND OR NOT REFIT_MPICH_MPIEXEC OR "${MPI_C_LIBRARIES}" MATCHES mpich)
  message(STATUS "No tests with MPICH beside another MPI (scripts/setup --hosts installs it)")
  return()
endif()

get_target_property(sources refit_transport_mpi SOURCES)
add_library(refit_transport_mpich OBJECT ${sources})
target_link_libraries(refit_transport_mpich PRIVATE refit_transport refit_options PkgConfig::MPICH)
target_compile_definitions(refit_transport_mpich PRIVATE MPICH_SKIP_MPICXX)

# refit_link_to_mpich(NAME TWIN): NAME, of the objects and libraries of TWIN.
function(refit_link_to_mpich NAME TWIN)
  get_target_property(objects ${TWIN} SOURCES)
  list(FILTER objects INCLUDE REGEX "TARGET_OBJECTS")
  get_target_property(libraries ${TWIN} LINK_LIBRARIES)
  add_executable(${NAME} $<TARGET_OBJECTS:${TWIN}> ${objects} $<TARGET_OBJECTS:refit_transport_mpich>)
  set_target_properties(${NAME} PROPERTIES LINKER_LANGUAGE CXX)
  # The other MPI's objects and library come behind, and nothing is left for them to define.
  target_link_options(${NAME} PRIVATE LINKER:--as-needed)
  target_link_libraries(${NAME} PRIVATE PkgConfig::MPICH ${libraries})
endfunction()

refit_link_to_mpich(refit_mpich refit)
foreach(name transport executors quantise_parts)
  refit_link_to_mpich(test_mpich_${name} test_mpi_${name})
  foreach(ranks 1 2)  # MPICH's ranks spin while they wait: more of them than cores take minutes
    add_test(NAME mpich_${name}_${ranks} COMMAND ${REFIT_MPICH_MPIEXEC} -np ${ranks} $<TARGET_FILE:test_mpich_${name}>)
    set_tests_properties(mpich_${name}_${ranks} PROPERTIES TIMEOUT ${REFIT_TEST_TIMEOUT} PROCESSORS 2 LABELS "mpi;mpich")
  endforeach()
endforeach()
