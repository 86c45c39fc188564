refit_test(report
  SOURCES report_documents.cpp report_files.cpp report_hdf5.cpp report_sample.cpp report_statistics.cpp report_text.cpp
  DEPENDS report
  EXTERNAL nlohmann_json::nlohmann_json refit::hdf5 GTest::gmock_main)
