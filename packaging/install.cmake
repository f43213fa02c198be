# What `cmake --install` puts where. The tree may be moved afterwards: tessera.pc and the CMake package find their place themselves.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS tessera_cli RUNTIME)
# Modules opened at run time: in lib/tessera whatever the library's folder is called, where program and library look.
foreach(module tessera_mpi_openmpi tessera_mpi_mpich)
    if(TARGET ${module})
        install(TARGETS ${module} LIBRARY DESTINATION lib/tessera)
    endif()
endforeach()
install(DIRECTORY include/tessera TYPE INCLUDE FILES_MATCHING PATTERN "*.h")

# Two exports, so that a program that links the shared library needs neither jansson nor xxHash to be developed against.
set(TESSERA_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/tessera)
set_target_properties(tessera PROPERTIES EXPORT_NAME tessera_static)
install(TARGETS tessera_shared EXPORT shared INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS tessera EXPORT static INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
foreach(kind shared static)
    install(EXPORT ${kind} NAMESPACE tessera:: FILE tessera-${kind}.cmake DESTINATION ${TESSERA_CMAKE_DIR})
endforeach()
configure_package_config_file(packaging/tessera-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/packaging/tessera-config.cmake
                              INSTALL_DESTINATION ${TESSERA_CMAKE_DIR})
# While the major version is 0, each minor one is a library of its own.
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/packaging/tessera-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/packaging/tessera-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/packaging/tessera-config-version.cmake
        DESTINATION ${TESSERA_CMAKE_DIR})

# From tessera.pc's folder up to the prefix; folders outside of the prefix stay where they are.
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}")
    set(TESSERA_PC_PREFIX ${CMAKE_INSTALL_PREFIX})
else()
    file(RELATIVE_PATH up /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
    string(REGEX REPLACE "/$" "" up "${up}")
    set(TESSERA_PC_PREFIX "\${pcfiledir}/${up}")
endif()
foreach(dir INCLUDEDIR LIBDIR)
    set(TESSERA_PC_${dir} "\${prefix}")
    cmake_path(APPEND TESSERA_PC_${dir} "${CMAKE_INSTALL_${dir}}") # an absolute one replaces the prefix
endforeach()
configure_file(packaging/tessera.pc.in packaging/tessera.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/packaging/tessera.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

install(FILES README.md CHANGELOG.md TYPE DOC)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs FILES_MATCHING PATTERN "*.md")
install(DIRECTORY examples TYPE DOC FILES_MATCHING PATTERN "*.c" PATTERN Makefile PATTERN CMakeLists.txt)
