// Image folders: pictures with a labels.csv, or one subfolder per class.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "nn/core/rng.h"
#include "nn/data/image.h"
#include "nn/data/pixels.h"
#include "nn/data/sources.h"

namespace ens::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLayoutHint =
    "a folder set has a labels.csv (first column: picture file, others: labels) or one subfolder "
    "of pictures per class";
constexpr int kDefaultSide = 64;
constexpr int64_t kStatsSample = 2000;
constexpr double kTrainPart = 0.8;

enum class Part { kUnknown, kTrain, kValidation, kTest };

struct Row {
  std::string file;  // relative to the folder or to its images/
  std::string label;
  Part part = Part::kUnknown;
  int line = 0;  // of labels.csv; 0: there is none
};

struct Listing {
  std::vector<Row> rows;
  std::vector<std::string> labels;       // sorted: the class of a row is its label's place here
  std::vector<std::string> class_names;  // what to call them
};

std::optional<int64_t> as_integer(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Part part_of(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  if (text == "train" || text == "training") return Part::kTrain;
  if (text == "val" || text == "valid" || text == "validation") return Part::kValidation;
  if (text == "test" || text == "testing") return Part::kTest;
  return Part::kUnknown;
}

// One line of comma-separated values; "quoted, ""fields""" as in RFC 4180.
std::vector<std::string> split_csv(const std::string& line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '"' && quoted && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += line[++i];
    } else if (c == '"' && (quoted || fields.back().empty())) {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  return fields;
}

struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
  std::vector<int> lines;

  int find(const std::string& column) const {
    const auto it = std::ranges::find(header, column);
    return it == header.end() ? -1 : static_cast<int>(it - header.begin());
  }
};

Table read_csv(const fs::path& file) {
  std::vector<std::string> lines = read_lines(file, kLayoutHint);
  if (lines.empty()) fail("file is empty", file.string(), kLayoutHint);
  if (lines[0].starts_with("\xef\xbb\xbf")) lines[0].erase(0, 3);
  Table table{split_csv(lines[0]), {}, {}};
  if (table.header.size() < 2) {
    fail("header has no label column after the file column", file.string() + ":1", kLayoutHint);
  }
  for (size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    table.rows.push_back(split_csv(lines[i]));
    table.lines.push_back(static_cast<int>(i) + 1);
    if (table.rows.back().size() != table.header.size()) {
      fail("line has " + std::to_string(table.rows.back().size()) + " fields, the header " +
               std::to_string(table.header.size()),
           file.string() + ":" + std::to_string(i + 1), "correct the line");
    }
  }
  if (table.rows.empty()) fail("file lists no picture", file.string(), kLayoutHint);
  return table;
}

int split_column(const Table& table) {
  for (const char* name : {"split", "train"}) {
    if (const int column = table.find(name); column > 0) return column;
  }
  return -1;
}

int label_column(const Table& table, const std::string& wanted, const fs::path& file) {
  const int split = split_column(table);
  std::string columns;
  for (size_t i = 1; i < table.header.size(); ++i) {
    if (static_cast<int>(i) != split) columns += (columns.empty() ? "" : ", ") + table.header[i];
  }
  if (!wanted.empty()) {
    const int column = table.find(wanted);
    if (column < 1 || column == split) {
      usage_fail("no label column \"" + wanted + "\"", file.string(), "choose one of " + columns);
    }
    return column;
  }
  for (const char* name : {"label", "identity"}) {
    if (const int column = table.find(name); column > 0) return column;
  }
  const int column = split == 1 ? 2 : 1;
  if (column == static_cast<int>(table.header.size())) {
    fail("header has no label column", file.string() + ":1", kLayoutHint);
  }
  return column;
}

Part parse_split(const std::string& column, const std::string& value, const std::string& where) {
  if (column == "train") {
    if (value == "1" || value == "true") return Part::kTrain;
    if (value == "0" || value == "false") return Part::kTest;
  }
  const Part part = part_of(value);
  if (part == Part::kUnknown) {
    fail("\"" + value + "\" in column " + column + " names no split", where,
         "write train, val or test");
  }
  return part;
}

// Sorted by value if every label is an integer, else as text.
std::vector<std::string> sorted_labels(const std::vector<Row>& rows) {
  std::set<std::string> distinct;
  for (const Row& row : rows) distinct.insert(row.label);
  std::vector<std::string> labels(distinct.begin(), distinct.end());
  if (std::ranges::all_of(labels, [](const auto& l) { return as_integer(l).has_value(); })) {
    std::ranges::stable_sort(labels, {}, [](const auto& l) { return *as_integer(l); });
  }
  return labels;
}

// Numbers say little: if another column spells the same classes in words, take the last such.
std::vector<std::string> names_of(const std::vector<std::string>& labels, const Table& table,
                                  int column) {
  if (!as_integer(labels[0])) return labels;
  for (int other = static_cast<int>(table.header.size()) - 1; other > 0; --other) {
    if (other == column || other == split_column(table)) continue;
    std::map<std::string, std::string> name_of;
    std::set<std::string> names;
    bool same = true;
    for (const auto& row : table.rows) {
      const std::string& name = row[other];
      const auto [it, added] = name_of.try_emplace(row[column], name);
      same = it->second == name && !as_integer(name) && (!added || names.insert(name).second);
      if (!same) break;
    }
    if (!same) continue;
    std::vector<std::string> out;
    for (const std::string& label : labels) out.push_back(name_of.at(label));
    return out;
  }
  std::vector<std::string> out;
  for (const std::string& label : labels) out.push_back(table.header[column] + "=" + label);
  return out;
}

Listing list_csv(const fs::path& file, const std::string& wanted) {
  const Table table = read_csv(file);
  const int column = label_column(table, wanted, file);
  const int split = split_column(table);
  Listing out;
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const auto& fields = table.rows[i];
    const std::string where = file.string() + ":" + std::to_string(table.lines[i]);
    Row row{fields[0], fields[column], Part::kUnknown, table.lines[i]};
    if (row.file.empty()) fail("line names no picture", where, "correct the line");
    if (row.label.empty()) {
      fail("line has no value in column " + table.header[column], where, "correct the line");
    }
    if (split > 0) row.part = parse_split(table.header[split], fields[split], where);
    out.rows.push_back(std::move(row));
  }
  if (split < 0) {
    // Files kept in train/ and val/ or test/ carry their split in the path.
    const auto part = [](const Row& row) {
      return part_of(row.file.substr(0, row.file.find('/')));
    };
    if (std::ranges::none_of(out.rows, [&](const Row& r) { return part(r) == Part::kUnknown; })) {
      for (Row& row : out.rows) row.part = part(row);
    }
  }
  out.labels = sorted_labels(out.rows);
  out.class_names = names_of(out.labels, table, column);
  return out;
}

std::vector<std::string> subfolders(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    if (it->is_directory(ignored) && !name.starts_with('.')) names.push_back(name);
  }
  if (error) fail("cannot list folder: " + error.message(), folder.string(), "check the path");
  std::ranges::sort(names);
  return names;
}

Listing list_subfolders(const fs::path& folder) {
  Listing out;
  const auto add = [&](const fs::path& parent, Part part) {
    for (const std::string& label : subfolders(folder / parent)) {
      for (const fs::path& file : list_images(folder / parent / label)) {
        out.rows.push_back({(parent / label / file.filename()).string(), label, part, 0});
      }
    }
  };
  const std::vector<std::string> top = subfolders(folder);
  const auto known = [](const std::string& name) { return part_of(name) != Part::kUnknown; };
  if (!top.empty() && std::ranges::all_of(top, known)) {
    for (const std::string& name : top) add(name, part_of(name));
  } else {
    add("", Part::kUnknown);
  }
  if (out.rows.empty())
    fail("folder has no labels.csv and no class subfolders with pictures", folder.string(),
         kLayoutHint);
  out.labels = sorted_labels(out.rows);
  out.class_names = out.labels;
  return out;
}

bool in_split(const Row& row, DataSplit split, uint64_t seed, bool has_test) {
  Part part = row.part;
  if (part == Part::kUnknown) {
    part = Rng(seed, row.file).uniform() < kTrainPart ? Part::kTrain : Part::kTest;
  } else if (part == Part::kValidation && !has_test) {
    part = Part::kTest;
  }
  return part == (split == DataSplit::kTrain ? Part::kTrain : Part::kTest);
}

std::vector<Row> rows_of(const Listing& listing, DataSplit split, uint64_t seed,
                         const fs::path& folder) {
  const bool has_test =
      std::ranges::any_of(listing.rows, [](const Row& row) { return row.part == Part::kTest; });
  std::vector<Row> rows;
  std::ranges::copy_if(listing.rows, std::back_inserter(rows),
                       [&](const Row& row) { return in_split(row, split, seed, has_test); });
  if (rows.empty()) {
    fail(std::string("no picture is in the ") + (split == DataSplit::kTrain ? "training" : "test") +
             " split",
         folder.string(), "add pictures, or say in a split column which are train and test");
  }
  return rows;
}

fs::path folder_of(const DataOptions& options) {
  const fs::path given = options.name.substr(options.name.find(':') + 1);
  std::error_code ignored;
  if (given.is_absolute() || fs::exists(given, ignored)) return given;
  const fs::path in_root = data_root(options.root) / given;
  return fs::exists(in_root, ignored) ? in_root : given;
}

Pixels read_row(const fs::path& folder, const Row& row, int side) {
  fs::path file = folder / row.file;
  std::error_code ignored;
  if (!fs::exists(file, ignored)) {
    if (const fs::path in_images = folder / "images" / row.file; fs::exists(in_images, ignored)) {
      file = in_images;
    } else {
      fail("picture is missing", file.string(),
           row.line ? "put it there, or remove line " + std::to_string(row.line) + " of " +
                          (folder / "labels.csv").string()
                    : "put it back");
    }
  }
  return resize(read_pixels(file, 3), side, side);
}

}  // namespace

Dataset read_folder(const DataOptions& options, DataSplit split) {
  const fs::path folder = folder_of(options);
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    fail("no such folder", folder.string(), std::string("give folder:PATH; ") + kLayoutHint);
  }
  const fs::path csv = folder / "labels.csv";
  if (!fs::exists(csv, ignored) && !options.label_column.empty()) {
    usage_fail("label column \"" + options.label_column + "\" needs a labels.csv", folder.string(),
               kLayoutHint);
  }
  const Listing listing =
      fs::exists(csv, ignored) ? list_csv(csv, options.label_column) : list_subfolders(folder);
  if (listing.labels.size() < 2) {
    fail("all pictures have the one label \"" + listing.labels[0] + "\"", folder.string(),
         kLayoutHint);
  }
  std::map<std::string, int32_t> class_of;
  for (const std::string& label : listing.labels) {
    class_of.emplace(label, static_cast<int32_t>(class_of.size()));
  }

  Dataset out;
  out.name = options.name;
  out.channels = 3;
  out.height = out.width = options.image_size ? options.image_size : kDefaultSide;
  out.class_names = listing.class_names;
  std::vector<Row> rows = rows_of(listing, split, options.seed, folder);
  if (options.limit && options.limit < static_cast<int64_t>(rows.size())) {
    rows.resize(static_cast<size_t>(options.limit));
  }
  out.labels.reserve(rows.size());
  out.pixels.reserve(rows.size() * static_cast<size_t>(out.image_size()));
  for (const Row& row : rows) {
    const Pixels picture = read_row(folder, row, out.height);
    out.pixels.insert(out.pixels.end(), picture.values.begin(), picture.values.end());
    out.labels.push_back(class_of.at(row.label));
  }

  // Decoding is slow, so the statistics come from a spread sample of the training pictures.
  const std::vector<Row> train = rows_of(listing, DataSplit::kTrain, options.seed, folder);
  const auto total = static_cast<int64_t>(train.size());
  const int64_t step = (total + kStatsSample - 1) / kStatsSample;
  const int64_t plane = int64_t{out.height} * out.width;
  ChannelStats stats;
  for (int64_t i = 0; i < total; i += step) {
    if (split == DataSplit::kTrain && i < out.count()) {
      stats.add(out.pixels.data() + i * out.image_size(), 3, plane);
    } else {
      stats.add(read_row(folder, train[i], out.height).values.data(), 3, plane);
    }
  }
  stats.store(out);
  return out;
}

bool folder_present(const DataOptions& options) {
  const fs::path folder = folder_of(options);
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) return false;
  return fs::exists(folder / "labels.csv", ignored) || !subfolders(folder).empty();
}

}  // namespace ens::data
