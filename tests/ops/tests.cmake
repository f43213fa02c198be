# The reference kernels once more, in double: derivatives are checked against differences of the forward kernels.
file(GLOB ref_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/ref/*.c)
add_library(tessera_ref_double OBJECT ${ref_sources})
target_include_directories(tessera_ref_double PRIVATE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_compile_definitions(tessera_ref_double PRIVATE TSR_REF_DOUBLE)
target_compile_options(tessera_ref_double PRIVATE ${TESSERA_WARNINGS})
target_link_libraries(test_ref_grad PRIVATE tessera_ref_double)
