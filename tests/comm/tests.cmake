# The communicator over MPI: a program under each launcher that is installed, driven by test_mpi.py.
add_executable(mpi_ranks ${CMAKE_CURRENT_LIST_DIR}/mpi_ranks.c)
target_include_directories(mpi_ranks PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tests)
target_compile_options(mpi_ranks PRIVATE ${TESSERA_WARNINGS})
target_link_libraries(mpi_ranks PRIVATE tessera)
set_target_properties(mpi_ranks PROPERTIES ENABLE_EXPORTS ON RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)

find_package(Python3 3.9 COMPONENTS Interpreter)
if(Python3_FOUND)
    foreach(launcher openmpi mpich)
        add_test(NAME comm.test_mpi_${launcher}
                 COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/test_mpi.py ${launcher} $<TARGET_FILE:mpi_ranks>)
        set_tests_properties(comm.test_mpi_${launcher} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${TESSERA_TEST_TIMEOUT}
                             LABELS mpi ENVIRONMENT PYTHONDONTWRITEBYTECODE=1)
    endforeach()
endif()
