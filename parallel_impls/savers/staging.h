// What savers have in common: ranks that agree, and files that may be torn.
#pragma once

#include <filesystem>
#include <functional>
#include <string_view>

#include "harness/base/result.h"
#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {

// All ranks come here, each with how its part went; nobody goes on before all are here, or if one failed.
// Ranks: every rank of the mesh; an all-reduce of one int64. Errors: FileFailure on all ranks if one failed.
void agree(const base::Status& mine, LayerContext& context, std::string_view site);

// Writes the file and syncs it. Where the save may be broken off, half of it lies there first, when kTorn is reached.
// Errors: kIo.
base::Status write_whole(const std::filesystem::path& path, const std::function<base::Status()>& write, const SavePoint& reached);

void reach(const SavePoint& reached, cases::CrashPoint point);   // an empty one asks for nothing

// A save that failed leaves nothing aside.
void remove_staging(const std::filesystem::path& folder);

}  // namespace moecheck::parallel_impls
