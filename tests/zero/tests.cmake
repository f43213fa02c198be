# Random programs of test_eager_model: 1,000 where nothing is stated. Sanitizers take several times as long a program.
# scripts/test_long.sh runs more.
if(TESSERA_SANITIZE MATCHES thread)
    set_tests_properties(zero.test_eager_model PROPERTIES ENVIRONMENT EAGER_MODEL_PROGRAMS=1000)
elseif(TESSERA_SANITIZE)
    set_tests_properties(zero.test_eager_model PROPERTIES ENVIRONMENT EAGER_MODEL_PROGRAMS=300)
endif()
