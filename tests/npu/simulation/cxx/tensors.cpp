#include "tensors.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "memory.h"

namespace simulation {
namespace {

using at::Tensor;

c10::Storage host_storage(const c10::Storage& device) {
  auto* kept = new c10::Storage(device);
  c10::DataPtr data(device.mutable_data(), kept,
                    [](void* storage) { delete static_cast<c10::Storage*>(storage); },
                    c10::Device(at::kCPU));
  return {c10::Storage::use_byte_size_t(), device.nbytes(), std::move(data),
          /*allocator=*/nullptr, /*resizable=*/false};
}

Tensor over_storage(c10::Storage storage, const Tensor& like) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), like.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(),
                                                    like.storage_offset());
  return view;
}

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
             std::optional<at::Layout> /*layout*/, std::optional<at::Device> device,
             std::optional<bool> /*pin_memory*/, std::optional<at::MemoryFormat> format) {
  const auto layout = format.value_or(at::MemoryFormat::Contiguous);
  TORCH_CHECK(layout == at::MemoryFormat::Contiguous || layout == at::MemoryFormat::Preserve,
              "Only contiguous_format or preserve_format is supported.");
  const c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_generic(size, device_allocator(), kKeys, c10::dtype_or_default(dtype),
                                   format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout> /*layout*/,
                     std::optional<at::Device> device, std::optional<bool> /*pin_memory*/) {
  const c10::DeviceGuard guard(c10::device_or_default(device));
  return at::detail::empty_strided_generic(size, stride, device_allocator(), kKeys,
                                           c10::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor& source, const Tensor& destination, bool /*non_blocking*/) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  host_view(destination).copy_(host_view(source));
  return destination;
}

const Tensor& resize(const Tensor& tensor, at::IntArrayRef size,
                     std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(tensor.device());
  return at::native::resize_(tensor, size, format);
}

// Everything has been computed by now, so no memory can be reused too early.
void record_stream(Tensor& /*tensor*/, c10::Stream /*stream*/) {}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("_copy_from", copy_from);
  library.impl("resize_", resize);
  library.impl("record_stream", record_stream);
  // Views and storage exchanges, which touch no values: those of the CPU serve any strided tensor.
  library.impl("as_strided", at::native::as_strided_tensorimpl);
  library.impl("view", at::native::view);
  library.impl("_reshape_alias", at::native::_reshape_alias);
  library.impl("unfold", at::native::unfold);
  library.impl("set_.source_Tensor", at::native::set_tensor_);
  library.impl("set_.source_Storage",
               static_cast<Tensor& (*)(Tensor&, c10::Storage)>(at::native::set_));
  library.impl("set_.source_Storage_storage_offset", at::native::set_storage_cpu_);
}

}  // namespace

Tensor host_view(const Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) return tensor;
  return over_storage(host_storage(tensor.storage()), tensor);
}

Tensor to_device(const Tensor& host, c10::Device device) {
  auto copy = at::empty_like(host, host.options().device(device));
  host_view(copy).copy_(host);
  return copy;
}

Tensor HostViews::view(const Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) return tensor;
  const auto& storage = tensor.storage();
  auto [found, is_new] = storages_.try_emplace(storage.unsafeGetStorageImpl());
  if (is_new) found->second = host_storage(storage);
  return remember(over_storage(found->second, tensor), tensor);
}

Tensor HostViews::output(const Tensor& tensor) {
  if (tensor.is_cpu() || tensor.numel() > 0) return view(tensor);
  outputs_.push_back({tensor, at::empty({0}, tensor.options().device(at::kCPU))});
  return remember(outputs_.back().host, tensor);
}

void HostViews::write_outputs() {
  for (const auto& [original, host] : outputs_) {
    original.resize_(host.sizes());
    host_view(original).copy_(host);
  }
}

Tensor HostViews::restore(const Tensor& host) const {
  if (!host.defined() || !host.is_cpu()) return host;
  const auto found = originals_.find(host.unsafeGetTensorImpl());
  if (found != originals_.end()) return found->second;
  for (const auto& [_, storage] : storages_)
    TORCH_CHECK(!host.storage().is_alias_of(storage),
                "the simulated NPU has no kernel for this operator, which returns a view");
  return to_device(host, device_);
}

Tensor HostViews::remember(const Tensor& host, const Tensor& original) {
  originals_.emplace(host.unsafeGetTensorImpl(), original);
  return host;
}

}  // namespace simulation
