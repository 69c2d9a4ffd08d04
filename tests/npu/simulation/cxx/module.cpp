// The Python module `simulated_npu`, of which the package torch_npu beside it makes `torch.npu`.
#include <torch/csrc/utils/pybind.h>

#include "device.h"
#include "hccl.h"
#include "memory.h"
#include "operators.h"

PYBIND11_MODULE(simulated_npu, module) {
  using namespace simulation;
  module.def("register_hooks", register_hooks);

  module.def("set_device_count", set_device_count);
  module.def("device_count", [] { return int{device_count()}; });
  module.def("current_device", [] { return int{current_device()}; });
  module.def("set_device", set_device);
  module.def("is_in_bad_fork", is_in_bad_fork);
  module.def("default_generator", [](int device) { return default_generator(device); });

  module.def("limit_memory", limit_memory);
  module.def("memory_limit", memory_limit);
  module.def("allocated_bytes", [](int device) { return allocated_bytes(device); });
  module.def("peak_bytes", [](int device) { return peak_bytes(device); });
  module.def("reset_peak", [](int device) { reset_peak(device); });

  module.def("set_missing_operators", set_missing_operators);
  module.def("hccl_over", hccl_over);
}
