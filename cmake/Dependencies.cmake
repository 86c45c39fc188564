# Every external package, found once; targets are used by name elsewhere.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(RefitKokkos REQUIRED)  # defines refit::kokkos
if(REFIT_ENABLE_CUDA)
  find_package(CUDAToolkit 12.4 REQUIRED)
  # Before 2.27 a thread can have one non-blocking launch under way, and lanes need one each.
  find_package(NCCL 2.27 REQUIRED)
endif()
if(REFIT_ENABLE_M2N)
  find_package(NCCLM2N 0.2 REQUIRED)  # defines NCCL::m2n
endif()

if(NOT REFIT_BUILD_APP)
  return()
endif()
find_package(MPI REQUIRED COMPONENTS C)
find_package(HDF5 REQUIRED COMPONENTS C)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(tomlplusplus REQUIRED)

find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)
find_library(XXHASH_LIBRARY xxhash REQUIRED)
if(NOT TARGET refit::xxhash)
  add_library(refit::xxhash UNKNOWN IMPORTED)
  set_target_properties(refit::xxhash PROPERTIES
    IMPORTED_LOCATION ${XXHASH_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${XXHASH_INCLUDE_DIR})
endif()

if(NOT TARGET refit::hdf5)
  add_library(refit::hdf5 INTERFACE IMPORTED)
  target_include_directories(refit::hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
  target_link_libraries(refit::hdf5 INTERFACE ${HDF5_C_LIBRARIES})
endif()
