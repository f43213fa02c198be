# The command from end to end; standard library only.
find_package(Python3 3.9 COMPONENTS Interpreter)
if(Python3_FOUND)
    foreach(name test_bad_input test_bad_checkpoint test_run test_plan test_kill)
        add_test(NAME cli.${name}
                 COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/${name}.py $<TARGET_FILE:tessera_cli>)
        set_tests_properties(cli.${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${TESSERA_TEST_TIMEOUT}
                             LABELS cli ENVIRONMENT PYTHONDONTWRITEBYTECODE=1)
    endforeach()
    foreach(launcher openmpi mpich)
        add_test(NAME cli.test_mpi_${launcher}
                 COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/test_mpi.py ${launcher} $<TARGET_FILE:tessera_cli>)
        set_tests_properties(cli.test_mpi_${launcher} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${TESSERA_TEST_TIMEOUT}
                             LABELS "mpi;noasan" ENVIRONMENT PYTHONDONTWRITEBYTECODE=1)
    endforeach()
endif()
