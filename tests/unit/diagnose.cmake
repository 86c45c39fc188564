refit_test(diagnose SOURCES diagnose_corruptions_test.cpp diagnose_bugs_test.cpp diagnose_causes_test.cpp
    diagnose_world.cpp verify_main.cpp
  DEPENDS app diagnose)
