# One way to declare a library, a program, a test.

add_library(ens_options INTERFACE)
set(ENS_WARNINGS -Wall -Wextra -Wshadow -Wno-missing-field-initializers
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>  # false alarms of GCC 12 on joined strings
  $<$<CXX_COMPILER_ID:Clang>:-Wno-pass-failed>)  # loops that only GCC vectorises
target_compile_options(ens_options INTERFACE "$<$<COMPILE_LANGUAGE:C,CXX>:${ENS_WARNINGS}>")
target_include_directories(ens_options INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
if(ENS_SANITIZE)
  target_compile_options(ens_options INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(ens_options INTERFACE -fsanitize=address,undefined)
endif()
if(ENS_TSAN)
  target_compile_options(ens_options INTERFACE -fsanitize=thread)
  target_link_options(ens_options INTERFACE -fsanitize=thread)
endif()

if(ENS_FUZZ)
  target_compile_options(ens_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined)
  target_link_options(ens_options INTERFACE -fsanitize=address,undefined)
endif()

function(ens_library target)
  target_link_libraries(${target} PUBLIC ens_options)
endfunction()

# ens_program(NAME SOURCES... LIBS...): an installed executable.
function(ens_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ens_options ${ARG_LIBS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  install(TARGETS ${name} RUNTIME)
endfunction()

# Build what is labelled so: a GPU's machine, and the sanitizers, need no more.
foreach(label gpu serving)
  add_custom_target(${label}_tests)
endforeach()

# ens_test(NAME SOURCES... LIBS... LABELS...): one GoogleTest binary; each case is a ctest case.
# Several labels: LABELS "unit;gpu".
function(ens_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ens_options ${ARG_LIBS} GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE
    ENS_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ENS_BIN_DIR="${PROJECT_BINARY_DIR}/bin")
  set(labels)
  foreach(label ${ARG_LABELS})
    list(APPEND labels LABELS ${label})
    if(TARGET ${label}_tests)
      add_dependencies(${label}_tests ${name})
    endif()
  endforeach()
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
                       PROPERTIES ${labels} TIMEOUT 1800 ENVIRONMENT GOMP_SPINCOUNT=10000)
endfunction()

# ens_gpu_test(NAME SOURCES... LIBS... SUITES...): needs a GPU and says so where there is none. One
# ctest case for each test suite, because every process would make a CUDA context of its own.
function(ens_gpu_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS;SUITES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ens_options ${ARG_LIBS} GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE
    ENS_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ENS_BIN_DIR="${PROJECT_BINARY_DIR}/bin")
  add_dependencies(gpu_tests ${name})
  foreach(suite ${ARG_SUITES})
    add_test(NAME ${name}.${suite} COMMAND ${name} --gtest_filter=*${suite}.*)
    set_tests_properties(${name}.${suite} PROPERTIES LABELS gpu TIMEOUT 1800
      SKIP_REGULAR_EXPRESSION "device cuda:0 is not available: " ENVIRONMENT GOMP_SPINCOUNT=10000)
  endforeach()
endfunction()
