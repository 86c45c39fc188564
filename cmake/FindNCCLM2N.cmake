# NCCL M2N (header and library) as NCCL::m2n. NCCLM2N_ROOT or M2N_ROOT names an installation: the folder nccl/m2n of
# PyPI's nccl-extensions, which has one library per CUDA major version.
find_path(NCCLM2N_INCLUDE_DIR nccl_m2n.h HINTS ${M2N_ROOT} $ENV{M2N_ROOT} PATH_SUFFIXES include)
find_library(NCCLM2N_LIBRARY nccl_m2n HINTS ${M2N_ROOT} $ENV{M2N_ROOT}
             PATH_SUFFIXES lib/cu${CUDAToolkit_VERSION_MAJOR} lib)

if(NCCLM2N_INCLUDE_DIR)
  file(STRINGS ${NCCLM2N_INCLUDE_DIR}/nccl_m2n.h lines REGEX "^#define NCCL_M2N_(MAJOR|MINOR|PATCH) +[0-9]+")
  list(TRANSFORM lines REPLACE "^#define NCCL_M2N_[A-Z]+ +" "")
  list(JOIN lines "." NCCLM2N_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCLM2N
  REQUIRED_VARS NCCLM2N_LIBRARY NCCLM2N_INCLUDE_DIR VERSION_VAR NCCLM2N_VERSION
  REASON_FAILURE_MESSAGE "set M2N_ROOT and NCCL_ROOT to the folders that scripts/setup --m2n prints")
if(NCCLM2N_FOUND AND NOT TARGET NCCL::m2n)
  add_library(NCCL::m2n SHARED IMPORTED)  # without a name of its own: by path, binaries could not be moved
  set_target_properties(NCCL::m2n PROPERTIES
    IMPORTED_LOCATION ${NCCLM2N_LIBRARY} IMPORTED_NO_SONAME ON INTERFACE_INCLUDE_DIRECTORIES ${NCCLM2N_INCLUDE_DIR})
  target_link_libraries(NCCL::m2n INTERFACE NCCL::NCCL)
endif()
