# SPDX-License-Identifier: Apache-2.0
# `cpack` (./run packages) makes a .deb of each component; docs/packages.md says what is in which.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_MAINTAINER "Ensembler developers <ensembler@localhost>" CACHE STRING "Maintainer of the packages")
set(CPACK_PACKAGE_CONTACT ${CPACK_DEBIAN_PACKAGE_MAINTAINER})
set(CPACK_DEBIAN_PACKAGE_SECTION science)
# Which packages have the libraries is read from the programs.
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")

# ens_package(COMPONENT NAME SUMMARY [FIELD VALUE]...)
set(CPACK_COMPONENTS_ALL)
macro(ens_package component name summary)
  list(APPEND CPACK_COMPONENTS_ALL ${component})
  string(TOUPPER ${component} upper)
  set(CPACK_DEBIAN_${upper}_PACKAGE_NAME ${name})
  set(CPACK_COMPONENT_${upper}_DESCRIPTION "${summary}")
  set(rest ${ARGN})
  while(rest)
    list(POP_FRONT rest field value)
    set(CPACK_DEBIAN_${upper}_PACKAGE_${field} ${value})
  endwhile()
endmacro()

ens_package(edge ensembler-edge "Ensembler's edge: ensembler-edge and libens_edge.so"
            RECOMMENDS "ensembler-codecs" SUGGESTS "ensembler-doc")
ens_package(codecs ensembler-codecs "Videos, cameras and unusual image files for Ensembler's edge and lab")
if(NOT ENS_EDGE_ONLY)
  ens_package(cloud ensembler-cloud "Ensembler's servers: ensembler-cloud and ensembler-worker"
              RECOMMENDS "ensembler-doc" SUGGESTS "ensembler")
  ens_package(lab ensembler "Ensembler's lab: training, keys, attacks, reports" RECOMMENDS "ensembler-doc, ensembler-codecs")
endif()
ens_package(dev ensembler-dev "Headers, CMake and pkg-config files of Ensembler's edge"
            SECTION libdevel DEPENDS "ensembler-edge (= ${PROJECT_VERSION})")
ens_package(doc ensembler-doc "Ensembler's documents and files to deploy it" ARCHITECTURE all SECTION doc)
# ens_compiled(NAME): scripts of a package whose modules Python compiles when it is installed; sets `scripts`.
function(ens_compiled name)
  set(folder ${PROJECT_BINARY_DIR}/debian/${name})
  set(command_of_postinst "[ \"$1\" != configure ] || py3compile -p ${name}")
  set(command_of_prerm "py3clean -p ${name}")
  foreach(script postinst prerm)
    file(WRITE ${folder}/${script} "#!/bin/sh\nset -e\n${command_of_${script}}\n")
    file(CHMOD ${folder}/${script} PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
  endforeach()
  set(scripts "${folder}/postinst;${folder}/prerm" PARENT_SCOPE)
endfunction()

if(ENS_HAS_PYTHON)
  math(EXPR next "${Python3_VERSION_MINOR} + 1")  # the module is for one minor version
  set(python "python3 (>= 3.${Python3_VERSION_MINOR}), python3 (<< 3.${next}), python3-numpy")
  if(NOT ENS_EDGE_ONLY)
    ens_compiled(python3-ensembler)
    set(CPACK_DEBIAN_PYTHON_PACKAGE_CONTROL_EXTRA "${scripts}")
    ens_package(python python3-ensembler "Ensembler for Python: training, attacks, reports, edge" SECTION python
                DEPENDS "${python}" RECOMMENDS "ensembler-codecs" SUGGESTS "ensembler-cloud, python3-pandas, python3-torch"
                PROVIDES "python3-ensembler-edge" CONFLICTS "python3-ensembler-edge" REPLACES "python3-ensembler-edge")
  endif()
  ens_compiled(python3-ensembler-edge)
  set(CPACK_DEBIAN_PYTHON_EDGE_PACKAGE_CONTROL_EXTRA "${scripts}")
  ens_package(python_edge python3-ensembler-edge "Ensembler's edge for Python, without training and attacks" SECTION python
              DEPENDS "${python}" RECOMMENDS "ensembler-codecs" CONFLICTS "python3-ensembler" REPLACES "python3-ensembler")
endif()
include(CPack)
