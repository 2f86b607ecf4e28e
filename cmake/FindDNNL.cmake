# SPDX-License-Identifier: Apache-2.0
# oneDNN 2.6 or 3.x. Debian's own CMake config stops without OpenCL headers, which the CPU does not
# need.
find_path(DNNL_INCLUDE_DIR NAMES oneapi/dnnl/dnnl.hpp dnnl.hpp)
find_library(DNNL_LIBRARY NAMES dnnl)
foreach(header oneapi/dnnl/dnnl_version.h dnnl_version.h)
  if(DNNL_INCLUDE_DIR AND EXISTS ${DNNL_INCLUDE_DIR}/${header} AND NOT DNNL_VERSION)
    file(READ ${DNNL_INCLUDE_DIR}/${header} text)
    string(REGEX MATCH "DNNL_VERSION_MAJOR +([0-9]+)" _ "${text}")
    set(major ${CMAKE_MATCH_1})
    string(REGEX MATCH "DNNL_VERSION_MINOR +([0-9]+)" _ "${text}")
    set(minor ${CMAKE_MATCH_1})
    string(REGEX MATCH "DNNL_VERSION_PATCH +([0-9]+)" _ "${text}")
    if(major)
      set(DNNL_VERSION ${major}.${minor}.${CMAKE_MATCH_1})
    endif()
  endif()
endforeach()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(DNNL REQUIRED_VARS DNNL_LIBRARY DNNL_INCLUDE_DIR
                                  VERSION_VAR DNNL_VERSION)
if(DNNL_FOUND AND NOT TARGET DNNL::dnnl)
  add_library(DNNL::dnnl UNKNOWN IMPORTED)
  set_target_properties(DNNL::dnnl PROPERTIES IMPORTED_LOCATION ${DNNL_LIBRARY}
                        INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE_DIR})
endif()
