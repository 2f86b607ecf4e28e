// SPDX-License-Identifier: Apache-2.0
// Signs from votes on which of them agree (internal to this folder).
#pragma once

#include <Eigen/Core>

namespace ens {

// Which +1 or -1 maximise sum_ij s_i J_ij s_j / 2 + sum_i h_i s_i, nearly: the leading eigenvector
// of the weights over what a node has of them in all, with one more node for h, whose sign is
// known; then single changes as long as they help.
Eigen::VectorXf solve_signs(const Eigen::MatrixXf& j, const Eigen::VectorXf& h);

}  // namespace ens
