// Tensors of the device and the CPU tensors that look at the same memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <unordered_map>
#include <vector>

namespace simulation {

// A CPU tensor over the memory of a tensor of the device; keeps that memory.
at::Tensor host_view(const at::Tensor& tensor);

// A copy in the memory of a device.
at::Tensor to_device(const at::Tensor& host, c10::Device device);

// The views of one call's operands: those that share memory on the device share it on the host, so
// that CPU kernels recognise overlap, and what a kernel returns is matched with what it was given.
class HostViews {
 public:
  explicit HostViews(c10::Device device) : device_(device) {}

  at::Tensor view(const at::Tensor& tensor);

  // For an `out` operand: as `view`, but a kernel may resize what is still empty.
  at::Tensor output(const at::Tensor& tensor);
  void write_outputs();

  // What belongs on the device for a tensor that a CPU kernel returned.
  at::Tensor restore(const at::Tensor& host) const;

 private:
  at::Tensor remember(const at::Tensor& host, const at::Tensor& original);

  struct Output {
    at::Tensor original;
    at::Tensor host;
  };

  c10::Device device_;
  std::unordered_map<const c10::StorageImpl*, c10::Storage> storages_;
  std::unordered_map<const c10::TensorImpl*, at::Tensor> originals_;
  std::vector<Output> outputs_;
};

}  // namespace simulation
