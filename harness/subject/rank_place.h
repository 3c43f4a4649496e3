// Which rank a process is, as its launcher says in the environment.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/result.h"
#include "harness/model/dims.h"

namespace moecheck::subject {

struct RankPlace {
  model::Dim rank = 0;
  model::Dim local_rank = 0;    // on its machine
  model::Dim world_size = 1;
  bool operator==(const RankPlace&) const = default;
};

using Environment = std::function<std::optional<std::string>(const std::string& name)>;
Environment process_environment();

// The first of these that names a rank: RANK, LOCAL_RANK, WORLD_SIZE (the driver, torchrun); OMPI_COMM_WORLD_RANK, _LOCAL_RANK, _SIZE (mpirun
// of Open MPI); PMI_RANK, MPI_LOCALRANKID, PMI_SIZE (MPICH, Intel MPI); SLURM_PROCID, SLURM_LOCALID, SLURM_NTASKS (srun). mpirun stands
// before srun, since within an allocation the variables of the batch script are there too.
// Errors: kUsage: none of them is there, or one is no number or out of range.
base::Result<RankPlace> rank_place(const Environment& environment);

// Those variables, and what torchrun says beside them: in the environment of a launcher they name a rank of the one that started this
// process. Without srun's: it sets them anew, and reads some.
std::vector<std::string> rank_variables();

// What names this machine and its numbering of processes: where two are equal, a process id of the one is one of the other.
std::string machine_name();

}  // namespace moecheck::subject
