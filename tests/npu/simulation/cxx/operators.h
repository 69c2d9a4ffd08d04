// What the device computes, by the kernels of the CPU.
#pragma once

#include <string>
#include <vector>

namespace simulation {

// Let the device lack operators, named with or without overload ("aten::topk"). As torch_npu does,
// they then run on the CPU with one warning each, or raise where `strict`.
void set_missing_operators(const std::vector<std::string>& names, bool strict);

}  // namespace simulation
