// What an attack leaves in its folder, and the table of it on stdout.
#pragma once

#include <filesystem>
#include <vector>

#include "attacks/core/evaluator.h"
#include "proto/results.pb.h"

namespace ens {

void fill(results::Interval* out, const Interval& interval);
results::AttackResult to_message(const AttackScore& score);

// A plain table of the runs' accuracies and attack results on stdout.
void print_results(const std::vector<std::filesystem::path>& folders);

}  // namespace ens
