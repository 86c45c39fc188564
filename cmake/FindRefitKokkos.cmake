# One Kokkos target for every packaging: refit::kokkos.
#
# - A Kokkos with a working CMake config (Kokkos_ROOT, 4.x or 5.x): its own target is used.
# - Debian's libtrilinos-kokkos-dev (3.4, Serial): its config names a directory that the package does not ship, so the
#   header and library are looked up directly. Included as SYSTEM: its headers warn.
if(Kokkos_ROOT OR DEFINED ENV{Kokkos_ROOT})
  find_package(Kokkos REQUIRED CONFIG)
  add_library(refit::kokkos INTERFACE IMPORTED)
  target_link_libraries(refit::kokkos INTERFACE Kokkos::kokkos)
  set(RefitKokkos_VERSION ${Kokkos_VERSION})
else()
  find_path(KOKKOS_INCLUDE_DIR Kokkos_Core.hpp PATH_SUFFIXES trilinos)
  find_library(KOKKOS_LIBRARY NAMES trilinos_kokkoscore kokkoscore)
  if(KOKKOS_INCLUDE_DIR AND KOKKOS_LIBRARY)
    add_library(refit::kokkos UNKNOWN IMPORTED)
    set_target_properties(refit::kokkos PROPERTIES
      IMPORTED_LOCATION ${KOKKOS_LIBRARY}
      INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${KOKKOS_INCLUDE_DIR}
      INTERFACE_INCLUDE_DIRECTORIES ${KOKKOS_INCLUDE_DIR})
    target_link_libraries(refit::kokkos INTERFACE Threads::Threads ${CMAKE_DL_LIBS})
  endif()
endif()

include(FindPackageHandleStandardArgs)
if(TARGET refit::kokkos)
  set(RefitKokkos_USABLE TRUE)
endif()
find_package_handle_standard_args(RefitKokkos
  REQUIRED_VARS RefitKokkos_USABLE
  REASON_FAILURE_MESSAGE "install libtrilinos-kokkos-dev, or set Kokkos_ROOT to a Kokkos installation")
