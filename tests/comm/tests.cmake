# The communicator over MPI: a program under each launcher that is installed, driven by test_mpi.py.
add_executable(mpi_ranks ${CMAKE_CURRENT_LIST_DIR}/mpi_ranks.c)
target_include_directories(mpi_ranks PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tests)
target_compile_options(mpi_ranks PRIVATE ${TESSERA_WARNINGS})
target_link_libraries(mpi_ranks PRIVATE tessera)
set_target_properties(mpi_ranks PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
if(TESSERA_MPI_MODULES)
    add_dependencies(mpi_ranks ${TESSERA_MPI_MODULES})
endif()
