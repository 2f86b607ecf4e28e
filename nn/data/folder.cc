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
#include "base/strings.h"
#include "nn/core/rng.h"
#include "nn/data/image.h"
#include "nn/data/pixels.h"
#include "nn/data/sources.h"

namespace ens::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLayoutHint =
    "a folder set has a labels.csv (first column: picture file, others: labels) or one subfolder "
    "of pictures per class; see docs/images.md";
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
  std::vector<std::string> warnings;
};

std::optional<int64_t> as_integer(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string lower_case(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

Part part_of(const std::string& name) {
  const std::string text = lower_case(name);
  if (text == "train" || text == "training") return Part::kTrain;
  if (text == "val" || text == "valid" || text == "validation") return Part::kValidation;
  if (text == "test" || text == "testing") return Part::kTest;
  return Part::kUnknown;
}

// One line of comma-separated values; "quoted, ""fields""" as in RFC 4180, but within a line. White
// space around a field that is not quoted does not count.
std::vector<std::string> split_csv(const std::string& line, const std::string& where) {
  std::vector<std::string> fields;
  for (size_t at = 0;; ++at) {
    at = std::min(line.find_first_not_of(" \t", at), line.size());
    std::string field;
    if (at < line.size() && line[at] == '"') {
      for (++at;; ++at) {
        if (at >= line.size()) fail("a quote is opened and not closed", where, "correct the line");
        if (line[at] == '"' && line.compare(at, 2, "\"\"") == 0)
          ++at;
        else if (line[at] == '"')
          break;
        field += line[at];
      }
      at = std::min(line.find_first_not_of(" \t", at + 1), line.size());
      if (at < line.size() && line[at] != ',') {
        fail("text follows a closing quote", where, "write a quote within quotes twice");
      }
    } else {
      const size_t end = std::min(line.find(',', at), line.size());
      field = trimmed(std::string_view(line).substr(at, end - at));
      at = end;
    }
    fields.push_back(std::move(field));
    if (at >= line.size()) return fields;
  }
}

struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
  std::vector<int> lines;

  // As it is spelt, else in any case.
  int find(const std::string& column) const {
    auto it = std::ranges::find(header, column);
    if (it == header.end()) it = std::ranges::find(header, lower_case(column), lower_case);
    return it == header.end() ? -1 : static_cast<int>(it - header.begin());
  }
};

Table read_csv(const fs::path& file) {
  std::vector<std::string> lines = read_lines(file, kLayoutHint);
  if (lines.empty()) fail("file is empty", file.string(), kLayoutHint);
  if (lines[0].starts_with("\xef\xbb\xbf")) lines[0].erase(0, 3);
  Table table{split_csv(lines[0], file.string() + ":1"), {}, {}};
  if (table.header.size() < 2) {
    fail("header has no label column after the file column", file.string() + ":1", kLayoutHint);
  }
  for (size_t i = 1; i < lines.size(); ++i) {
    if (trimmed(lines[i]).empty()) continue;
    const std::string where = file.string() + ":" + std::to_string(i + 1);
    table.rows.push_back(split_csv(lines[i], where));
    table.lines.push_back(static_cast<int>(i) + 1);
    if (table.rows.back().size() != table.header.size()) {
      fail("line has " + std::to_string(table.rows.back().size()) + " fields, the header " +
               std::to_string(table.header.size()),
           where, "correct the line");
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
  const std::string text = lower_case(trimmed(value));
  if (lower_case(column) == "train") {
    if (text == "1" || text == "true" || text == "yes") return Part::kTrain;
    if (text == "0" || text == "false" || text == "no") return Part::kTest;
  }
  const Part part = part_of(text);
  if (part == Part::kUnknown) {
    fail("\"" + value + "\" in column " + column + " names no split", where,
         "write train, val or test");
  }
  return part;
}

// A name that the terminal shows and a bundle holds.
void check_label(const std::string& label, const std::string& where) {
  if (label.empty()) fail("a class has no name", where, "give it one");
  if (std::ranges::any_of(label, [](unsigned char c) { return c < 0x20 || c == 0x7f; })) {
    std::string shown = label;
    std::ranges::replace_if(
        shown, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
    fail("the class name \"" + shown +
             "\" has a line break or another control character (shown as ?)",
         where, "rename the class");
  }
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
// `used`: that column.
std::vector<std::string> names_of(const std::vector<std::string>& labels, const Table& table,
                                  int column, int& used) {
  used = column;
  if (!as_integer(labels[0])) return labels;
  for (int other = static_cast<int>(table.header.size()) - 1; other > 0; --other) {
    if (other == column || other == split_column(table)) continue;
    std::map<std::string, std::string> name_of;
    std::set<std::string> names;
    bool same = true;
    for (const auto& row : table.rows) {
      const std::string name = trimmed(row[other]);
      const auto [it, added] = name_of.try_emplace(trimmed(row[column]), name);
      same = it->second == name && !as_integer(name) && (!added || names.insert(name).second);
      if (!same) break;
    }
    if (!same) continue;
    std::vector<std::string> out;
    for (const std::string& label : labels) out.push_back(name_of.at(label));
    used = other;
    return out;
  }
  std::vector<std::string> out;
  for (const std::string& label : labels) out.push_back(table.header[column] + "=" + label);
  return out;
}

// The row's picture: in the folder, or in its images/.
fs::path path_of(const fs::path& folder, const Row& row) {
  const fs::path file = folder / row.file;
  std::error_code ignored;
  if (fs::exists(file, ignored)) return file;
  const fs::path in_images = folder / "images" / row.file;
  return fs::exists(in_images, ignored) ? in_images : file;
}

void check_inside(const Row& row, const std::string& where) {
  const fs::path file = row.file;
  if (file.is_absolute() || std::ranges::find(file, fs::path("..")) != file.end()) {
    fail("\"" + row.file + "\" is not inside the folder", where,
         "write paths relative to the folder, without ..");
  }
}

// Refuses a picture with two labels, warns of pictures that are listed twice.
void check_repetitions(Listing& listing, const fs::path& csv) {
  std::map<fs::path, const Row*> first;
  int64_t repeated = 0, in_both = 0;
  for (const Row& row : listing.rows) {
    const auto [it, added] =
        first.try_emplace(path_of(csv.parent_path(), row).lexically_normal(), &row);
    if (added) continue;
    const Row& other = *it->second;
    if (other.label != row.label) {
      fail(row.file + " is \"" + other.label + "\" in line " + std::to_string(other.line) +
               " and \"" + row.label + "\" in line " + std::to_string(row.line),
           csv.string(), "remove one of the lines");
    }
    ++repeated;
    in_both += other.part != row.part;
  }
  if (repeated == 0) return;
  std::string text = csv.string() + ": " + std::to_string(repeated) + " of " +
                     std::to_string(listing.rows.size()) + " lines repeat a picture";
  if (in_both > 0) {
    text += "; " + std::to_string(in_both) +
            " of them in another split, so that accuracy is measured on training pictures";
  }
  listing.warnings.push_back(text);
}

void warn_of_unused_columns(const Table& table, const std::vector<int>& used, const fs::path& csv,
                            Listing& listing) {
  std::vector<std::string> unused;
  for (int i = 1; i < std::ssize(table.header); ++i) {
    if (std::ranges::find(used, i) == used.end()) {
      unused.push_back("\"" + table.header[static_cast<size_t>(i)] + "\"");
    }
  }
  if (unused.empty()) return;
  constexpr size_t kMost = 8;
  if (unused.size() > kMost) {
    const std::string rest = std::to_string(unused.size() - kMost) + " more";
    unused.resize(kMost);
    unused.push_back(rest);
  }
  listing.warnings.push_back(
      csv.string() + ": learnt is the column \"" + table.header[static_cast<size_t>(used[0])] +
      "\"; not used: " + join(unused) +
      (split_column(table) < 0 ? " (the split is read from a column \"split\" or \"train\")" : ""));
}

Listing list_csv(const fs::path& file, const std::string& wanted) {
  const Table table = read_csv(file);
  const int column = label_column(table, wanted, file);
  const int split = split_column(table);
  Listing out;
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const auto& fields = table.rows[i];
    const std::string where = file.string() + ":" + std::to_string(table.lines[i]);
    Row row{fields[0], trimmed(fields[static_cast<size_t>(column)]), Part::kUnknown,
            table.lines[i]};
    if (row.file.empty()) fail("line names no picture", where, "correct the line");
    if (row.label.empty()) {
      fail("line has no value in column " + table.header[static_cast<size_t>(column)], where,
           "correct the line");
    }
    check_inside(row, where);
    check_label(row.label, where);
    if (split > 0) {
      const auto at = static_cast<size_t>(split);
      row.part = parse_split(table.header[at], fields[at], where);
    }
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
  check_repetitions(out, file);
  out.labels = sorted_labels(out.rows);
  int naming = column;
  out.class_names = names_of(out.labels, table, column, naming);
  for (const std::string& name : out.class_names) check_label(name, file.string());
  warn_of_unused_columns(table, {column, naming, split}, file, out);
  return out;
}

// What operating systems and archives leave beside the folders of classes.
bool left_by_system(const std::string& name) {
  return name.starts_with('.') || name == "__MACOSX" || name == "@eaDir" ||
         name == "$RECYCLE.BIN" || name == "System Volume Information" || name == "lost+found";
}

std::vector<std::string> subfolders(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    if (it->is_directory(ignored) && !left_by_system(name)) names.push_back(name);
  }
  if (error) fail("cannot list folder: " + error.message(), folder.string(), "check the path");
  std::ranges::sort(names);
  return names;
}

Listing list_subfolders(const fs::path& folder) {
  Listing out;
  const auto add = [&](const fs::path& parent, Part part) {
    for (const std::string& label : subfolders(folder / parent)) {
      check_label(label, (folder / parent).string());
      const std::vector<fs::path> files = list_images(folder / parent / label);
      if (files.empty()) {
        out.warnings.push_back((folder / parent / label).string() +
                               ": holds no picture; there is no such class, or not in this split");
      }
      for (const fs::path& file : files) {
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

[[noreturn]] void no_such_folder(const DataOptions& options, const fs::path& folder) {
  if (folder.is_absolute()) {
    fail("no such folder", folder.string(), std::string("give folder:PATH; ") + kLayoutHint);
  }
  std::error_code ignored;
  const fs::path root = data_root(options.root);
  fail("no such folder in " + fs::current_path(ignored).string() + " or " + root.string(),
       folder.string(),
       "a relative path is looked for in the working folder, then in the folder of the data sets: "
       "name the folder that holds it with --data, or give folder:/ABSOLUTE/PATH; " +
           std::string(kLayoutHint));
}

Pixels read_row(const fs::path& folder, const Row& row, int side, ImageFit fit) {
  const fs::path file = path_of(folder, row);
  std::error_code ignored;
  if (!fs::exists(file, ignored)) {
    fail("picture is missing", file.string(),
         row.line ? "put it there, or remove line " + std::to_string(row.line) + " of " +
                        (folder / "labels.csv").string()
                  : "put it back");
  }
  return resize(read_pixels(file, 3), side, side, fit);
}

// Classes that nobody can learn.
void warn_of_unlearnt(const Listing& listing, const std::vector<Row>& train, Dataset& out) {
  std::set<std::string> learnt;
  for (const Row& row : train) learnt.insert(row.label);
  std::vector<std::string> missing;
  for (size_t i = 0; i < listing.labels.size(); ++i) {
    if (!learnt.contains(listing.labels[i])) missing.push_back(listing.class_names[i]);
  }
  if (!missing.empty()) {
    out.warnings.push_back(out.name + ": no training picture of " + join(missing));
  }
}

}  // namespace

Dataset read_folder(const DataOptions& options, DataSplit split) {
  const fs::path folder = folder_of(options);
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) no_such_folder(options, folder);
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
  out.warnings = listing.warnings;
  std::vector<Row> rows = rows_of(listing, split, options.seed, folder);
  if (options.limit && options.limit < static_cast<int64_t>(rows.size())) {
    rows.resize(static_cast<size_t>(options.limit));
  }
  out.labels.reserve(rows.size());
  out.pixels.reserve(rows.size() * static_cast<size_t>(out.image_size()));
  for (const Row& row : rows) {
    const Pixels picture = read_row(folder, row, out.height, options.fit);
    out.pixels.insert(out.pixels.end(), picture.values.begin(), picture.values.end());
    out.labels.push_back(class_of.at(row.label));
  }

  // Decoding is slow, so the statistics come from a spread sample of the training pictures.
  const std::vector<Row> train = rows_of(listing, DataSplit::kTrain, options.seed, folder);
  warn_of_unlearnt(listing, train, out);
  const auto total = static_cast<int64_t>(train.size());
  const int64_t step = (total + kStatsSample - 1) / kStatsSample;
  const int64_t plane = int64_t{out.height} * out.width;
  ChannelStats stats;
  for (int64_t i = 0; i < total; i += step) {
    if (split == DataSplit::kTrain && i < out.count()) {
      stats.add(out.pixels.data() + i * out.image_size(), 3, plane);
    } else {
      stats.add(
          read_row(folder, train[static_cast<size_t>(i)], out.height, options.fit).values.data(), 3,
          plane);
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
