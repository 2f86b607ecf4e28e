/* SPDX-License-Identifier: Apache-2.0 */
/* The name of <ensembler/edge.h> before the headers had a folder. */
#include "ensembler/edge.h"
