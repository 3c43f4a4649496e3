#include "harness/scenario/yaml_reader.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <sstream>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include "harness/base/files.h"
#include "harness/base/nearest_name.h"
#include "harness/scenario/yaml_bytes.h"

namespace moecheck::scenario {
namespace {

constexpr std::string_view kEndsOfPlainText = " \r\n,]}";

// Leaves yaml-cpp's parser from inside an event; caught in parse_yaml only.
struct Refusal : std::exception {
  Refusal(Spot at, std::string why) : spot(at), message(std::move(why)) {}
  Spot spot;
  std::string message;
};

// Turns yaml-cpp's byte positions into spots.
class Locator {
 public:
  explicit Locator(std::string_view text) : text_(text) {
    for (std::size_t at = 0; at < text.size(); ++at)
      if (text[at] == '\n') line_begins_.push_back(at + 1);
  }

  // yaml-cpp places some marks beyond the last line, and a missing mark at -1.
  std::size_t offset(const YAML::Mark& mark) const {
    if (mark.line < 0 || mark.column < 0) return 0;
    const auto line = static_cast<std::size_t>(mark.line);
    if (line >= line_begins_.size()) return text_.size();
    return std::min(line_begins_[line] + static_cast<std::size_t>(mark.column), text_.size());
  }

  Spot spot(std::size_t offset, std::size_t width) const {
    const auto after = std::ranges::upper_bound(line_begins_, offset);
    const std::size_t begin = *(after - 1);
    const std::size_t column = num_characters(text_.substr(begin, offset - begin)) + 1;
    return {static_cast<std::size_t>(after - line_begins_.begin()), column, width};
  }

  Spot spot(const YAML::Mark& mark, std::size_t width = 1) const { return spot(offset(mark), width); }

  // Where the file ends for a reader: its last character that is no white space.
  Spot end() const {
    const auto last = text_.find_last_not_of(" \r\n");
    return spot(last == std::string_view::npos ? 0 : last, 1);
  }

  // Tells a written null from an absent value, whose mark is where the next token begins.
  bool is_at_null_word(const YAML::Mark& mark) const {
    const std::string_view rest = text_.substr(offset(mark));
    for (const std::string_view word : {"~", "null", "Null", "NULL"})
      if (rest.starts_with(word) && (rest.size() == word.size() || kEndsOfPlainText.find(rest[word.size()]) != std::string_view::npos))
        return true;
    return false;
  }

 private:
  std::string_view text_;
  std::vector<std::size_t> line_begins_ = {0};
};

class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const Locator& locator) : locator_(locator) {}

  YamlNode take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++num_documents_ > 1)
      throw Refusal(locator_.spot(mark),
                    "content after the end of the document; a file holds one document (is the indentation right?)");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check_plain(mark, "?", anchor);
    YamlNode node;
    if (locator_.is_at_null_word(mark)) node.spot = locator_.spot(mark);
    else if (!open_.empty()) node.spot = open_.back().key ? open_.back().key->spot : open_.back().node.spot;
    add(std::move(node));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_anchor(mark); }
  void OnAnchor(const YAML::Mark& mark, const std::string&) override { refuse_anchor(mark); }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string& value) override {
    check_plain(mark, tag, anchor);
    YamlNode node;
    node.kind = YamlKind::kScalar;
    node.text = value;
    node.is_quoted = tag == "!";
    node.spot = locator_.spot(mark, num_characters(value) + (node.is_quoted ? 2 : 0));
    check_text(node);
    add(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(YamlKind::kList, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    open(YamlKind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    YamlNode node;
    std::optional<YamlNode> key;  // of a map, while its value is awaited
  };

  [[noreturn]] void refuse_anchor(const YAML::Mark& mark) const {
    throw Refusal(locator_.spot(mark), "anchors and aliases are not supported; write the value where it is used");
  }

  void check_plain(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != 0) refuse_anchor(mark);
    if (!tag.empty() && tag != "?" && tag != "!")
      throw Refusal(locator_.spot(mark), "YAML tags are not supported; write the plain value");
    if (++num_nodes_ > kMaxYamlNodes)
      throw Refusal(locator_.spot(mark), fmt::format("more than {} keys and values; split the file", kMaxYamlNodes));
  }

  // Escapes in double quotes can make what the bytes of the file may not have.
  static void check_text(const YamlNode& node) {
    const auto is_control = [](char c) { return c != '\n' && (static_cast<unsigned char>(c) < 0x20 || c == 0x7F); };
    if (std::ranges::any_of(node.text, is_control)) throw Refusal(node.spot, "text with a control character");
  }

  void check_key(const Open& map, const YamlNode& key) const {
    if (key.kind != YamlKind::kScalar) throw Refusal(key.spot, "a key must be text");
    if (key.text == "<<" && !key.is_quoted)
      throw Refusal(key.spot, "merge keys (<<) are not supported; write the keys where they are used");
    for (const YamlEntry& earlier : map.node.entries)
      if (earlier.key.text == key.text)
        throw Refusal(key.spot, fmt::format("duplicate key '{}'; it stands on line {} already", key.text, earlier.key.spot.line));
  }

  void add(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
    } else if (Open& top = open_.back(); top.node.kind == YamlKind::kList) {
      top.node.items.push_back(std::move(node));
    } else if (!top.key) {
      check_key(top, node);
      top.key = std::move(node);
    } else {
      top.node.entries.push_back({std::move(*top.key), std::move(node)});
      top.key.reset();
    }
  }

  void open(YamlKind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    check_plain(mark, tag, anchor);
    if (open_.size() >= kMaxYamlDepth)
      throw Refusal(locator_.spot(mark), fmt::format("nested deeper than {} levels", kMaxYamlDepth));
    YamlNode node;
    node.kind = kind;
    node.spot = locator_.spot(mark);
    open_.push_back({std::move(node), std::nullopt});
  }

  void close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    add(std::move(node));
  }

  const Locator& locator_;
  std::vector<Open> open_;
  YamlNode root_;
  std::size_t num_nodes_ = 0;
  int num_documents_ = 0;
};

// The names beside a missing file, for a did-you-mean.
std::string neighbour_hint(const std::filesystem::path& path) {
  std::vector<std::string> names;
  std::error_code ignored;  // an unreadable folder has no names to offer
  const auto folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  const auto near = base::nearest_name(path.filename().string(), names);
  return near ? fmt::format("; did you mean '{}'?", (path.parent_path() / *near).string()) : "";
}

// yaml-cpp skips directives that it does not know, and takes what follows a broken one for an empty file.
base::Status refuse_directives(const Source& source, const Locator& locator) {
  const std::size_t next_line = source.text.find("\n%");
  if (!source.text.starts_with('%') && next_line == std::string::npos) return base::Ok{};
  return source.error_at(locator.spot(source.text.starts_with('%') ? 0 : next_line + 1, 1), "YAML directives (%) are not supported");
}

}  // namespace

base::Result<YamlDocument> parse_yaml(std::string path, std::string text) {
  YamlDocument document{{std::move(path), std::move(text)}, {}};
  const Source& source = document.source;
  if (source.text.size() > kMaxYamlBytes)
    return base::Error{base::ErrorCode::kUsage,
                       fmt::format("the file has {} bytes; at most {} are read", source.text.size(), kMaxYamlBytes), source.where({})};
  if (auto bytes = check_bytes(source); !bytes) return bytes.error();
  const Locator locator(source.text);
  if (auto directives = refuse_directives(source, locator); !directives) return directives.error();
  TreeBuilder builder(locator);
  try {
    std::istringstream stream(source.text);
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return source.error_at({}, "the file is empty");
    parser.HandleNextDocument(builder);
  } catch (const Refusal& refusal) {
    return source.error_at(refusal.spot, refusal.message);
  } catch (const YAML::Exception& e) {
    const bool is_past_end = locator.offset(e.mark) >= source.text.size();
    return source.error_at(is_past_end ? locator.end() : locator.spot(e.mark), fmt::format("not valid YAML: {}", e.msg));
  }
  document.root = builder.take_root();
  return document;
}

base::Result<YamlDocument> read_yaml(const std::filesystem::path& path) {
  std::error_code code;
  const auto status = std::filesystem::status(path, code);
  if (status.type() == std::filesystem::file_type::not_found)
    return base::Error{base::ErrorCode::kUsage, "no such file" + neighbour_hint(path), path.string()};
  if (status.type() == std::filesystem::file_type::directory)
    return base::Error{base::ErrorCode::kUsage, "is a folder, not a YAML file", path.string()};
  // The size is asked first, so that a huge file is never read whole.
  const auto size = std::filesystem::file_size(path, code);
  if (!code && size > kMaxYamlBytes)
    return base::Error{base::ErrorCode::kUsage, fmt::format("the file has {} bytes; at most {} are read", size, kMaxYamlBytes),
                       Source{path.string(), ""}.where({})};
  auto text = base::read_file(path);
  if (!text) return text.error();
  return parse_yaml(path.string(), std::move(*text));
}

}  // namespace moecheck::scenario
