# Writes version.cpp, if it changes: cmake -D SOURCE=<the project's root> -D OUTPUT=FILE -D REFIT_RELEASE=0.2.0 -P write_version.cmake
set(REFIT_COMMIT unknown)
file(STRINGS ${SOURCE}/lib/version/commit.txt archived LIMIT_COUNT 1)
if(archived MATCHES "^[0-9a-f]+$")
  string(SUBSTRING ${archived} 0 12 REFIT_COMMIT)
else()
  find_program(GIT git)
  if(GIT)
    # The tree may belong to another user, as in a container's build; no index is locked that another git works with.
    set(git ${CMAKE_COMMAND} -E env GIT_OPTIONAL_LOCKS=0 ${GIT} -c safe.directory=* -C ${SOURCE})
    execute_process(COMMAND ${git} rev-parse --show-prefix RESULT_VARIABLE failed OUTPUT_VARIABLE prefix
                    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(NOT failed AND prefix STREQUAL "")  # else a copy inside a repository of somebody else
      execute_process(COMMAND ${git} describe --always --dirty --abbrev=12 --exclude=* RESULT_VARIABLE failed
                      OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
      if(NOT failed AND described MATCHES "^[0-9a-f]+(-dirty)?$")
        set(REFIT_COMMIT ${described})
      endif()
    endif()
  endif()
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/version.cpp.in ${OUTPUT} @ONLY)
