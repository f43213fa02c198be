# test_parity.py drives dump_gpt and compares what it wrote with PyTorch and transformers.
add_executable(dump_gpt ${CMAKE_CURRENT_LIST_DIR}/dump_gpt.c)
target_include_directories(dump_gpt PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tests)
target_compile_options(dump_gpt PRIVATE ${TESSERA_WARNINGS})
target_link_libraries(dump_gpt PRIVATE tessera)
set_target_properties(dump_gpt PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)

set(PARITY_PYTHON ${PROJECT_SOURCE_DIR}/.venv/bin/python CACHE FILEPATH "Python with tests/parity/requirements.txt")
add_test(NAME parity.test_parity
         COMMAND ${CMAKE_CURRENT_LIST_DIR}/run.sh ${PARITY_PYTHON}
                 ${CMAKE_CURRENT_LIST_DIR}/test_parity.py $<TARGET_FILE:dump_gpt>)
set_tests_properties(parity.test_parity PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${TESSERA_TEST_TIMEOUT}
                     LABELS python ENVIRONMENT "OMP_NUM_THREADS=1;HF_HUB_OFFLINE=1;PYTHONDONTWRITEBYTECODE=1")
