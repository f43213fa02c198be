# What `cmake --install` gives, used as a stranger would: outside of this tree.
find_package(Python3 3.9 COMPONENTS Interpreter)
if(Python3_FOUND AND NOT TESSERA_SANITIZE) # a library with a sanitizer in it links nowhere else
    add_test(NAME install.test_install
             COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/test_install.py
                     ${CMAKE_COMMAND} ${PROJECT_BINARY_DIR} ${CMAKE_C_COMPILER} ${CMAKE_CXX_COMPILER})
    set_tests_properties(install.test_install PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${TESSERA_TEST_TIMEOUT}
                         LABELS noasan ENVIRONMENT PYTHONDONTWRITEBYTECODE=1)
endif()
