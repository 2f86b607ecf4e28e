// SPDX-License-Identifier: Apache-2.0
// `ensembler report`: one page from run folders alone.
#pragma once

#include <filesystem>
#include <vector>

namespace ens {

// Reads every finished run folder at or below `folders` (layout: experiment/run_dir.h, with
// summary.json, serve.json and attack/NAME/{result.json,original.png,reconstruction.png}) and
// writes `html`: one file without links to anything outside and without scripts. Beside it, with
// the same stem, a .csv (one row per run and attack) and a .json of the same numbers, a .md with
// the main table and the comparison with published numbers, and a .tex with the main table. With
// `figures` each of the page's figures is written there as NAME.svg.
//
// A sweep's folder (sweep.json) also names the cells that have no finished run: they are rows of
// the table, with the reason. Runs equal but for the seed are one row. Damaged or unfinished
// folders and files are named in the page with the reason and left out. Error if no run is left to
// report on, or if a file cannot be written; existing files are replaced whole.
void write_report(const std::vector<std::filesystem::path>& folders,
                  const std::filesystem::path& html, const std::filesystem::path& figures = {});

}  // namespace ens
