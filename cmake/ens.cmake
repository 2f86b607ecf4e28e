# SPDX-License-Identifier: Apache-2.0
# One way to declare a library, a program, a test.

add_library(ens_options INTERFACE)
target_compile_features(ens_options INTERFACE cxx_std_20)
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

# For code that is short beside what it includes: GCC takes a third less time, and the libraries hold the loops.
add_library(ens_fast_compile INTERFACE)
target_compile_options(ens_fast_compile INTERFACE $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<NOT:$<CONFIG:Debug>>>:-O1>)

# ens_compile_together(TARGET): several of its files are compiled as one, which reads what they all include once. For
# folders of many short files whose local names differ. -DENS_COMPILE_TOGETHER=OFF compiles each alone, for tools that
# read compile_commands.json and for those who change the same file again and again.
option(ENS_COMPILE_TOGETHER "Compile several short files as one" ON)
function(ens_compile_together target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${ENS_COMPILE_TOGETHER} UNITY_BUILD_BATCH_SIZE 5)
  # GCC takes the files for headers, whose local types would be others in every file that includes them.
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-subobject-linkage>)
endfunction()

# ens_program(NAME SOURCES... LIBS...): an installed executable, its manual page and its completion for bash.
function(ens_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ens_options ens_fast_compile ens_base ens_flags ${ARG_LIBS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  install(TARGETS ${name} RUNTIME)
  if(NOT ENS_SANITIZE AND NOT ENS_TSAN AND NOT ENS_FUZZ)
    set(manual ${PROJECT_BINARY_DIR}/manual)
    add_custom_command(OUTPUT ${manual}/${name}.1 ${manual}/${name}
      COMMAND ${PROJECT_SOURCE_DIR}/cmake/manual ${name} ${PROJECT_VERSION} ${manual}
              ${CMAKE_CROSSCOMPILING_EMULATOR} $<TARGET_FILE:${name}>
      DEPENDS ${name} ${PROJECT_SOURCE_DIR}/cmake/manual VERBATIM)
    add_custom_target(manual_${name} ALL DEPENDS ${manual}/${name}.1 ${manual}/${name})
    install(FILES ${manual}/${name}.1 DESTINATION share/man/man1)
    install(FILES ${manual}/${name} DESTINATION share/bash-completion/completions)
  endif()
endfunction()

# ens_benchmark(NAME SOURCES... LIBS...): built when it is asked for by name or as `benchmarks`, and installed if it has
# been built.
add_custom_target(benchmarks)
function(ens_benchmark name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} EXCLUDE_FROM_ALL ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ens_options ${ARG_LIBS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  add_dependencies(benchmarks ${name})
  install(TARGETS ${name} RUNTIME OPTIONAL)
endfunction()

# Build what is labelled so: a GPU's machine, and the sanitizers, need no more.
foreach(label gpu serving)
  add_custom_target(${label}_tests)
endforeach()

# A GoogleTest program. All of them share one precompiled header, which the layering test's target holds.
function(ens_test_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ens_options ens_fast_compile ${ARG_LIBS} GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE
    ENS_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ENS_BIN_DIR="${PROJECT_BINARY_DIR}/bin")
  if(name STREQUAL layering_test)
    target_precompile_headers(${name} PRIVATE
      <gtest/gtest.h> <filesystem> <fstream> <functional> <string> <thread> <vector>)
  elseif(TARGET layering_test)  # not yet for the emulator's own test, whose options differ
    target_precompile_headers(${name} REUSE_FROM layering_test)
  endif()
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>)  # ccache asks for it
endfunction()

# ens_test(NAME SOURCES... LIBS... LABELS... [COST SECONDS] [ISOLATED]): one ctest case for each test suite, so that its
# cases share a process and what SetUpTestSuite() made; ISOLATED: one for each case. What costs most starts first.
# Several labels: LABELS "unit;gpu".
function(ens_test name)
  cmake_parse_arguments(ARG "ISOLATED" "COST" "SOURCES;LIBS;LABELS" ${ARGN})
  ens_test_program(${name} SOURCES ${ARG_SOURCES} LIBS ${ARG_LIBS})
  set(labels)
  foreach(label ${ARG_LABELS})
    string(APPEND labels "LABELS ${label} ")
    if(TARGET ${label}_tests)
      add_dependencies(${label}_tests ${name})
    endif()
  endforeach()
  set(cost 0)
  if(ARG_COST)
    set(cost ${ARG_COST})
  endif()
  # The program is asked for its suites when ctest starts.
  set(file ${CMAKE_CURRENT_BINARY_DIR}/${name}_suites.cmake)
  file(GENERATE OUTPUT ${file} CONTENT "
include([[${PROJECT_SOURCE_DIR}/cmake/add_suites.cmake]])
ens_add_suites(NAME ${name} COMMAND [[${CMAKE_CROSSCOMPILING_EMULATOR}]] [[$<TARGET_FILE:${name}>]] ISOLATED ${ARG_ISOLATED}
  PROPERTIES ${labels}COST ${cost} TIMEOUT 1800 ENVIRONMENT GOMP_SPINCOUNT=10000)
")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${file})
endfunction()
