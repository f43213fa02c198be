# zero_runtime over several ranks against the same computation by one.
find_package(Python3 3.9 COMPONENTS Interpreter)
if(Python3_FOUND)
    add_test(NAME examples.test_zero_runtime
             COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/test_zero_runtime.py $<TARGET_FILE:zero_runtime>)
    set_tests_properties(examples.test_zero_runtime PROPERTIES TIMEOUT ${TESSERA_TEST_TIMEOUT}
                         ENVIRONMENT PYTHONDONTWRITEBYTECODE=1)
endif()
