# The library as a CMake package: find_package(refit): refit::c, the interface in C with everything inside, and, of builds
# without CUDA, the C++ libraries, refit::session (examples/).
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME library)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/refit)
install(TARGETS refit_c EXPORT refitCTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
set_target_properties(refit_c PROPERTIES EXPORT_NAME c)
install(EXPORT refitCTargets NAMESPACE refit:: DESTINATION ${package_dir})
install(FILES ${CMAKE_SOURCE_DIR}/lib/embed/refit.h ${CMAKE_SOURCE_DIR}/lib/embed/refit_mpi.h
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

if(NOT REFIT_ENABLE_CUDA)
  set(package_folders core model layout plan transport verify session)
  set(package_targets refit_options refit_kernels)
  if(REFIT_BUILD_APP)
    list(APPEND package_targets refit_transport_mpi)
  endif()
  foreach(folder ${package_folders})
    list(APPEND package_targets refit_${folder})
    install(DIRECTORY ${CMAKE_SOURCE_DIR}/lib/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/refit FILES_MATCHING PATTERN "*.hpp")
  endforeach()
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/kernels DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/refit FILES_MATCHING PATTERN "*.hpp")
  foreach(target ${package_targets})
    string(REPLACE refit_ "" name ${target})
    set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  endforeach()
  install(TARGETS ${package_targets} EXPORT refitTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/refit)
  install(EXPORT refitTargets NAMESPACE refit:: DESTINATION ${package_dir})
endif()

configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/refitConfig.cmake.in ${CMAKE_BINARY_DIR}/refitConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/refitConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/refitConfig.cmake ${CMAKE_BINARY_DIR}/refitConfigVersion.cmake
              ${CMAKE_SOURCE_DIR}/cmake/FindRefitKokkos.cmake
        DESTINATION ${package_dir})
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/librefit-dev RENAME copyright)
