# One Kokkos target for every packaging: refit::kokkos.
#
# - A Kokkos with a working CMake config (Kokkos_ROOT, 4.x or 5.x): its own target is used.
# - Debian's libtrilinos-kokkos-dev (3.4, Serial): its config names a directory that the package does not ship, so the
#   header and library are looked up directly. Included as SYSTEM: its headers warn.
#
# RefitKokkos_CUDA says whether it is built for CUDA. Only sources that include Kokkos are compiled by nvcc then
# (refit_uses_kokkos): RefitKokkos_LAUNCHER, put before the host compiler's command, replaces that by Kokkos' compiler.
# The host compiler links, since without relocatable device code nothing is left for nvcc to do.
set(RefitKokkos_CUDA FALSE)
if(Kokkos_ROOT OR DEFINED ENV{Kokkos_ROOT})
  set(Kokkos_LAUNCH_COMPILER OFF)  # else every command of every target goes through it
  find_package(Kokkos REQUIRED CONFIG)
  add_library(refit::kokkos INTERFACE IMPORTED)
  target_link_libraries(refit::kokkos INTERFACE Kokkos::kokkos)
  set(RefitKokkos_VERSION ${Kokkos_VERSION})
  if(Kokkos_ENABLE_CUDA)
    set(RefitKokkos_CUDA TRUE)
    if(CUDAToolkit_VERSION VERSION_LESS 12.4)
      message(FATAL_ERROR "refit needs CUDA 12.4 or later, not ${CUDAToolkit_VERSION}: set CUDAToolkit_ROOT")
    endif()
    if(Kokkos_ENABLE_CUDA_RELOCATABLE_DEVICE_CODE)
      message(FATAL_ERROR "refit needs a Kokkos built with -DKokkos_ENABLE_CUDA_RELOCATABLE_DEVICE_CODE=OFF")
    endif()
    set_target_properties(Kokkos::kokkoscore PROPERTIES INTERFACE_LINK_OPTIONS "")  # those of nvcc
    find_program(KOKKOS_LAUNCH_COMPILER kokkos_launch_compiler REQUIRED HINTS ${Kokkos_DIR}/../../../bin)
    set(RefitKokkos_LAUNCHER ${KOKKOS_LAUNCH_COMPILER} ${Kokkos_CXX_COMPILER} ${CMAKE_CXX_COMPILER})
  elseif(Kokkos_ENABLE_HIP OR Kokkos_ENABLE_SYCL)
    message(FATAL_ERROR "refit's kernels run on CPUs and on CUDA: set Kokkos_ROOT to a Kokkos built for one of them")
  endif()
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

if(REFIT_ENABLE_CUDA AND NOT RefitKokkos_CUDA)
  message(FATAL_ERROR "this build is for GPUs and found no Kokkos with CUDA: build one with -DKokkos_ENABLE_CUDA=ON and "
                      "-DKokkos_ARCH_<GPU>=ON, and set Kokkos_ROOT to where it is installed")
endif()

include(FindPackageHandleStandardArgs)
if(TARGET refit::kokkos)
  set(RefitKokkos_USABLE TRUE)
endif()
find_package_handle_standard_args(RefitKokkos
  REQUIRED_VARS RefitKokkos_USABLE
  REASON_FAILURE_MESSAGE "install libtrilinos-kokkos-dev, or set Kokkos_ROOT to a Kokkos installation")
