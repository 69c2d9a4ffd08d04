// The process group of the device.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace simulation {

// A backend that lets `gloo` work on the memory of the device.
c10::intrusive_ptr<c10d::Backend> hccl_over(c10::intrusive_ptr<c10d::Backend> gloo);

}  // namespace simulation
