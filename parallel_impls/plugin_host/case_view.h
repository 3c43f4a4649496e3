// A case as the C ABI has it, and the memory that it points to.
#pragma once

#include <string>
#include <vector>

#include "parallel_impls/external/plugin/moecheck_plugin.h"
#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {

class CaseView {
 public:
  explicit CaseView(const LayerContext& context);
  CaseView(const CaseView&) = delete;
  CaseView& operator=(const CaseView&) = delete;

  const MoecheckCase* get() const { return &view_; }

 private:
  void add_mesh(const LayerContext& context);
  void add_knobs(const cases::Case& one);

  std::string implementation_, experts_backend_, json_;
  std::vector<std::string> dims_, knobs_, values_;
  std::vector<const char*> dim_texts_, knob_texts_, value_texts_;
  std::vector<std::int64_t> sizes_, coordinates_;
  MoecheckCase view_{};
};

}  // namespace moecheck::parallel_impls
