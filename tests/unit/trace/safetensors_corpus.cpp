#include "tests/unit/trace/safetensors_corpus.h"

#include <cstdint>

#include <fmt/format.h>

namespace moecheck::trace {
namespace {

// Bytes that differ from their neighbours, so that a tensor that is read from elsewhere shows.
std::string data(std::size_t size) {
  std::string bytes;
  for (std::size_t i = 0; i < size; ++i) bytes += static_cast<char>(i * 37 + 1);
  return bytes;
}

std::string with_size(std::uint64_t claimed, const std::string& rest) {
  std::string bytes;
  for (int byte = 0; byte < 8; ++byte) bytes += static_cast<char>(claimed >> (8 * byte) & 0xFF);
  return bytes + rest;
}

std::string file(const std::string& header, std::size_t data_bytes = 0) {
  return with_size(header.size(), header + data(data_bytes));
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

// One tensor 'a' of 4 bytes, with any of its parts replaced.
std::string one_tensor(const std::string& dtype, const std::string& shape, const std::string& offsets, std::size_t data_bytes = 4) {
  return file("{" + entry("a", dtype, shape, offsets) + "}", data_bytes);
}

// Two tensors of 4 bytes each, at these offsets.
std::string two_tensors(const std::string& first, const std::string& second, std::size_t data_bytes = 8) {
  return file("{" + entry("a", "F32", "[1]", first) + "," + entry("b", "F32", "[1]", second) + "}", data_bytes);
}

const std::string kA = entry("a", "F32", "[1]", "[0,4]");

CorpusFile sound(const std::string& name, const std::string& bytes) { return {name, bytes, "", ""}; }

CorpusFile malformed(const std::string& name, const std::string& bytes, const std::string& refusal, const std::string& package = "") {
  return {name, bytes, refusal, package};
}

std::vector<CorpusFile> damaged_frames() {
  const std::string whole = file("{" + kA + "}", 4);
  return {
      malformed("no_bytes", "", "0 bytes are too few"),
      malformed("cut_in_size_field", whole.substr(0, 7), "7 bytes are too few"),
      malformed("size_field_alone", whole.substr(0, 8), "the file has 0"),
      malformed("cut_in_header", whole.substr(0, 20), "the file has 12"),
      malformed("cut_in_data", whole.substr(0, whole.size() - 1), "the file has 3: it is truncated"),
      malformed("cut_before_data", whole.substr(0, whole.size() - 4), "the file has 0: it is truncated"),
      malformed("byte_behind_data", whole + "x", "the file has 5: what follows belongs to no tensor"),
      malformed("data_without_tensors", file("{}", 4), "promises 0 bytes of data, the file has 4"),
      malformed("header_longer_than_file", with_size(3, "{}"), "the header claims 3 bytes, the file has 2"),
      malformed("header_over_limit", with_size(100'000'001, "{}"), "more than the 100000000 that are allowed"),
      malformed("header_size_wraps_around", with_size(0xFFFF'FFFF'FFFF'FFFC, "{}"), "more than the 100000000"),
      malformed("header_size_big_endian", std::string("\0\0\0\0\0\0\0\2{}", 10), "more than the 100000000"),
      malformed("header_one_byte_short", with_size(kA.size() + 1, "{" + kA + "}" + data(4)), "not valid JSON"),
      malformed("empty_header", file(""), "does not begin with '{'"),
      malformed("header_of_spaces", file("    "), "does not begin with '{'"),
  };
}

std::vector<CorpusFile> damaged_json() {
  return {
      malformed("byte_order_mark", file("\xEF\xBB\xBF{}"), "does not begin with '{'"),
      malformed("space_before_brace", file(" {" + kA + "}", 4), "does not begin with '{'",
                "its reader skips space; the format says that a header begins with '{'"),
      malformed("list_for_object", file("[]"), "does not begin with '{'"),
      malformed("null_for_object", file("null"), "does not begin with '{'"),
      malformed("two_objects", file("{}{}"), "not valid JSON at byte"),
      malformed("zero_bytes_as_padding", file(std::string("{}\0\0\0\0", 6)), "not valid JSON at byte 2, which is zero"),
      malformed("zero_byte_in_name", file("{" + entry(std::string("a\0b", 3), "F32", "[1]", "[0,4]") + "}", 4), "which is zero"),
      malformed("trailing_comma", file("{" + kA + ",}", 4), "not valid JSON at byte"),
      malformed("comment", file("{/**/}"), "not valid JSON at byte"),
      malformed("single_quotes", file("{'a':1}"), "not valid JSON at byte"),
      malformed("unclosed_object", file("{" + kA, 4), "not valid JSON at byte"),
      malformed("deep_lists", file(R"({"a":)" + std::string(5000, '[') + std::string(5000, ']') + "}"), "nests deeper"),
      malformed("name_not_utf8", file("{" + entry("\xFF", "F32", "[1]", "[0,4]") + "}", 4), "not valid JSON at byte"),
      malformed("name_overlong_utf8", file("{" + entry("\xC0\x80", "F32", "[1]", "[0,4]") + "}", 4), "not valid JSON at byte"),
      malformed("name_half_surrogate", file("{" + entry("\\ud800", "F32", "[1]", "[0,4]") + "}", 4), "not valid JSON at byte"),
      malformed("control_character", file("{" + entry("\x01", "F32", "[1]", "[0,4]") + "}", 4), "not valid JSON at byte"),
      malformed("metadata_not_utf8", file("{\"__metadata__\":{\"a\":\"\xED\xA0\x80\"}}"), "not valid JSON at byte"),
      malformed("tensor_twice", file("{" + kA + "," + kA + "}", 4), "names 'a' twice", "it keeps the last of equal names"),
      malformed("tensor_twice_escaped", file("{" + kA + "," + entry("\\u0061", "F32", "[1]", "[0,4]") + "}", 4), "names 'a' twice",
                "it keeps the last of equal names"),
      malformed("dtype_twice", file(R"({"a":{"dtype":"I32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4), "names 'dtype' twice"),
      malformed("metadata_twice", file(R"({"__metadata__":{},"__metadata__":{}})"), "names '__metadata__' twice"),
      malformed("metadata_key_twice", file(R"({"__metadata__":{"k":"1","k":"2"}})"), "names 'k' twice", "it keeps the last of equal keys"),
      malformed("metadata_a_list", file(R"({"__metadata__":[]})"), "__metadata__ is not an object"),
      malformed("metadata_null", file(R"({"__metadata__":null})"), "__metadata__ is not an object", "it takes null for no metadata"),
      malformed("metadata_a_number", file(R"({"__metadata__":{"k":1}})"), "__metadata__.k is not a string"),
      malformed("metadata_nested", file(R"({"__metadata__":{"k":{"l":"m"}}})"), "__metadata__.k is not a string"),
  };
}

std::vector<CorpusFile> damaged_entries() {
  return {
      malformed("entry_null", file(R"({"a":null})"), "tensor 'a': its entry needs exactly"),
      malformed("entry_a_list", file(R"({"a":["F32",[1],[0,4]]})", 4), "tensor 'a': its entry needs exactly",
                "it takes the fields in their order, without names"),
      malformed("entry_without_dtype", file(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4), "needs exactly"),
      malformed("entry_without_shape", file(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4), "needs exactly"),
      malformed("entry_without_offsets", file(R"({"a":{"dtype":"F32","shape":[1]}})", 4), "needs exactly"),
      malformed("entry_with_more", file(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"strides":[1]}})", 4), "needs exactly",
                "it passes over fields that it does not know, which may say that the bytes mean something else"),
      malformed("dtype_unknown", one_tensor("F31", "[1]", "[0,4]"), "tensor 'a': dtype \"F31\" is not supported; store it as F32, F64,"),
      malformed("dtype_lower_case", one_tensor("f32", "[1]", "[0,4]"), "dtype \"f32\" is not supported"),
      malformed("dtype_of_8_bits", one_tensor("F8_E4M3", "[4]", "[0,4]"), "dtype \"F8_E4M3\" is not supported",
                "it knows dtypes that no layer here has"),
      malformed("dtype_unsigned", one_tensor("U32", "[1]", "[0,4]"), "dtype \"U32\" is not supported",
                "it knows dtypes that no layer here has"),
      malformed("dtype_a_number", file(R"({"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4), "dtype is not a string"),
      malformed("dtype_an_object", file(R"({"a":{"dtype":{"F32":null},"shape":[1],"data_offsets":[0,4]}})", 4), "dtype is not a string",
                "it takes an object with the dtype for a key"),
      malformed("shape_a_number", one_tensor("F32", "1", "[0,4]"), "shape is not a list"),
      malformed("shape_negative", one_tensor("F32", "[-1]", "[0,4]"), "not a whole number from 0 up"),
      malformed("shape_negative_zero", one_tensor("F32", "[-0]", "[0,0]", 0), "not a whole number from 0 up"),
      malformed("shape_fraction", one_tensor("F32", "[1.0]", "[0,4]"), "not a whole number from 0 up"),
      malformed("shape_beyond_64_bits", one_tensor("U8", "[18446744073709551616]", "[0,0]", 0), "not a whole number from 0 up"),
      malformed("shape_leading_zero", one_tensor("F32", "[01]", "[0,4]"), "not valid JSON at byte"),
      malformed("shape_times_itemsize_wraps_around", one_tensor("F32", "[4611686018427387904]", "[0,0]", 0), "too large for 63 bits"),
      malformed("shape_product_wraps_around", one_tensor("U8", "[4294967296,4294967296]", "[0,0]", 0), "too large for 63 bits"),
      malformed("shape_wraps_around_to_size", one_tensor("U8", "[4294967297,4294967297,4]", "[0,4]"), "too large for 63 bits"),
      malformed("shape_empty_but_huge", one_tensor("U8", "[4611686018427387904,2,0]", "[0,0]", 0), "too large for 63 bits",
                "it has no signed sizes; here the product of the sizes but the 0 must fit, since strides are such products"),
      malformed("size_below_shape", one_tensor("F32", "[2]", "[0,4]"), "in F32, which is 8 bytes"),
      malformed("size_above_shape", one_tensor("F32", "[1]", "[0,8]", 8), "in F32, which is 4 bytes"),
      malformed("size_of_other_dtype", one_tensor("F16", "[1]", "[0,4]"), "in F16, which is 2 bytes"),
  };
}

std::vector<CorpusFile> damaged_offsets() {
  return {
      malformed("offsets_a_number", one_tensor("F32", "[1]", "4"), "data_offsets is not a pair"),
      malformed("offsets_one", one_tensor("F32", "[1]", "[4]"), "data_offsets is not a pair"),
      malformed("offsets_three", one_tensor("F32", "[1]", "[0,4,4]"), "data_offsets is not a pair"),
      malformed("offsets_negative", one_tensor("F32", "[1]", "[-4,0]"), "data_offsets is not a pair"),
      malformed("offsets_fraction", one_tensor("F32", "[1]", "[0,4.0]"), "data_offsets is not a pair"),
      malformed("offsets_backwards", one_tensor("F32", "[1]", "[4,0]"), "tensor 'a': data_offsets [4,0]"),
      malformed("offsets_wrap_around", two_tensors("[0,4]", "[18446744073709551612,0]"), "tensor 'b': data_offsets"),
      malformed("offsets_far_out", one_tensor("F32", "[1]", "[18446744073709551611,18446744073709551615]"), "tensor 'a': begins at byte"),
      malformed("gap_at_begin", one_tensor("F32", "[1]", "[4,8]", 8), "begins at byte 4, expected 0: there is a gap"),
      malformed("gap", two_tensors("[0,4]", "[8,12]", 12), "tensor 'b': begins at byte 8, expected 4: there is a gap"),
      malformed("overlap_in_part", two_tensors("[0,4]", "[2,6]", 6), "tensor 'b': begins at byte 2, expected 4: it overlaps"),
      malformed("overlap_whole", two_tensors("[0,4]", "[0,4]", 4), "begins at byte 0, expected 4: it overlaps"),
      malformed("empty_inside_another", file("{" + kA + "," + entry("z", "F32", "[0]", "[2,2]") + "}", 4), "tensor 'z': begins at byte 2"),
      malformed("empty_behind_the_end", file("{" + kA + "," + entry("z", "F32", "[0]", "[5,5]") + "}", 4), "tensor 'z': begins at byte 5"),
      malformed("offsets_within_whole_file", one_tensor("F32", "[1]", "[64,68]"), "begins at byte 64, expected 0: there is a gap"),
  };
}

}  // namespace

std::vector<CorpusFile> sound_files() {
  std::vector<CorpusFile> files = {
      sound("nothing", file("{}")),
      sound("metadata_alone", file(R"({"__metadata__":{"format":"pt","":"","escaped \n \u00e9":"\ud83d\ude00 \"quoted\" \u0000"}})")),
      sound("metadata_without_keys", file(R"({"__metadata__":{}})")),
      sound("metadata_last", file("{" + kA + R"(,"__metadata__":{"k":"v"}})", 4)),
      sound("no_dims", one_tensor("F64", "[]", "[0,8]", 8)),
      sound("no_elements", one_tensor("F32", "[0,4]", "[0,0]", 0)),
      sound("many_dims", one_tensor("U8", "[1,1,2,1,1,1,1,2,1]", "[0,4]")),
      sound("padded_with_spaces", file("{" + kA + "}" + std::string(57, ' '), 4)),
      sound("padded_with_other_space", file("{" + kA + "}\r\n\t ", 4)),
      sound("spaces_inside", file(R"({ "a" : { "shape" : [ 1 ] , "data_offsets" : [ 0 , 4 ] , "dtype" : "F32" } })", 4)),
      sound("empties_between", file("{" + kA + "," + entry("z", "I64", "[0]", "[4,4]") + "," + entry("y", "U8", "[3,0]", "[0,0]") + "," +
                                    entry("b", "F32", "[1]", "[4,8]") + "}", 8)),
      sound("data_in_other_order", two_tensors("[4,8]", "[0,4]")),
      sound("unaligned", file("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("b", "F64", "[1]", "[1,9]") + "}", 9)),
      sound("names_of_any_kind", file("{" + entry("", "U8", "[1]", "[0,1]") + "," + entry("\\u00fc/\\\\ .\\n", "U8", "[1]", "[1,2]") + "," +
                                      entry("\xE2\x82\xAC", "U8", "[1]", "[2,3]") + "," +
                                      entry("data_offsets", "U8", "[1]", "[3,4]") + "}", 4)),
      sound("key_written_with_escapes", file(R"({"a":{"d\u0074ype":"F\u00332","shape":[1],"data_offsets":[0,4]}})", 4)),
  };
  for (const auto& [dtype, itemsize] : std::vector<std::pair<std::string, std::size_t>>{
           {"F32", 4}, {"F64", 8}, {"BF16", 2}, {"F16", 2}, {"I64", 8}, {"I32", 4}, {"U8", 1}, {"BOOL", 1}})
    files.push_back(sound("dtype_" + dtype, one_tensor(dtype, "[2,3]", fmt::format("[0,{}]", 6 * itemsize), 6 * itemsize)));
  return files;
}

std::vector<CorpusFile> malformed_files() {
  std::vector<CorpusFile> files;
  for (const auto& some : {damaged_frames(), damaged_json(), damaged_entries(), damaged_offsets()})
    files.insert(files.end(), some.begin(), some.end());
  return files;
}

}  // namespace moecheck::trace
