// `ensembler data get`: official files, checked, in place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace ens {

struct FetchProgress {
  std::string file;
  int64_t done = 0, total = 0;  // bytes; total 0 when the server does not say
};

// Names that fetch_dataset knows: cifar10, cifar100, fashion_mnist, mnist, multi30k.
std::vector<std::string> fetchable_datasets();
// Whether the files of one of them are there (no contents are read).
bool fetched_present(const std::string& name, const std::filesystem::path& root);

// Downloads the set's official archives into root/<name>, checks size and SHA-256 (or the official
// MD5), unpacks, and replaces nothing until all is right. Resumes nothing, keeps nothing broken.
// Does nothing when the set is already complete. Error on network failure or wrong checksum, with
// the address, and how to place the files by hand.
void fetch_dataset(const std::string& name, const std::filesystem::path& root,
                   const std::function<void(const FetchProgress&)>& progress);

}  // namespace ens
