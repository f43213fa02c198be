# Random programs of test_eager_model: 1,000 where nothing is stated, fewer under sanitizers, which take several times as long.
# scripts/test_long.sh runs more.
if(TESSERA_SANITIZE)
    set_tests_properties(zero.test_eager_model PROPERTIES ENVIRONMENT EAGER_MODEL_PROGRAMS=500)
endif()
