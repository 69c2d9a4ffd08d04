#include "operators.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <mutex>
#include <set>

#include "device.h"
#include "memory.h"
#include "tensors.h"

namespace simulation {
namespace {

using at::Tensor;
using Arguments = at::ArrayRef<c10::IValue>;
using OptionalTensors = c10::List<std::optional<Tensor>>;

// ---- operators that the device lacks

std::set<std::string> missing;
std::set<std::string> warned;
std::mutex warned_mutex;
bool is_strict = false;

bool is_missing(const c10::OperatorName& name) {
  return missing.count(name.name) > 0 || missing.count(c10::toString(name)) > 0;
}

// Straight to stderr, as torch_npu does it: no filter of Python's warnings sees it.
void warn_once(const std::string& name) {
  const std::lock_guard lock(warned_mutex);
  if (!warned.insert(name).second) return;
  const c10::SourceLocation here{"npu_cpu_fallback", __FILE__, static_cast<uint32_t>(__LINE__)};
  const auto text = c10::str("CAUTION: The operator '", name,
                             "' is not currently supported on the NPU backend and will fall back ",
                             "to run on the CPU. This may have performance implications.");
  c10::WarningHandler().process({c10::UserWarning(), here, text, /*verbatim=*/false});
}

void require_kernel(const c10::OperatorName& operator_name) {
  if (!is_missing(operator_name)) return;
  const auto name = c10::toString(operator_name);
  TORCH_CHECK(!is_strict, "The operator '", name,
              "' would execute its main computation on CPU through dispatcher backend fallback, "
              "but CPU fallback is disabled by TORCH_NPU_FALLBACK_CPU_DISABLE=1.");
  warn_once(name);
}

// ---- operands

// Finds the device of an operator's tensors and refuses a mixture, as a real device does. Numbers
// in the shape of a CPU tensor go with any device, and so do indices on the CPU.
class CommonDevice {
 public:
  explicit CommonDevice(std::string operator_name) : operator_name_(std::move(operator_name)) {}

  void add(const Tensor& tensor, const std::string& argument, bool may_be_on_cpu = false) {
    if (!tensor.defined()) return;
    if (tensor.is_cpu() && (tensor.dim() == 0 || may_be_on_cpu)) return;
    if (!device_) device_ = tensor.device();
    TORCH_CHECK(*device_ == tensor.device(),
                "Expected all tensors to be on the same device, but found at least two devices, ",
                *device_, " and ", tensor.device(), "! (when checking argument for argument ",
                argument, " in method ", operator_name_, ")");
  }

  void add(const c10::IValue& value, const std::string& argument) {
    if (value.isTensor()) add(value.toTensor(), argument);
    if (value.isTensorList())
      for (const Tensor& tensor : value.toTensorVector()) add(tensor, argument);
    if (value.isOptionalTensorList())
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector())
        if (tensor) add(*tensor, argument, /*may_be_on_cpu=*/true);
    if (value.isDevice() && !device_) device_ = value.toDevice();
  }

  c10::Device get() const {
    if (device_ && device_->has_index()) return *device_;
    return {kNPU, current_device()};
  }

 private:
  std::string operator_name_;
  std::optional<c10::Device> device_;
};

c10::Device common_device(const c10::FunctionSchema& schema, Arguments arguments) {
  CommonDevice device(c10::toString(schema.operator_name()));
  for (size_t i = 0; i < arguments.size(); ++i)
    device.add(arguments[i], schema.arguments()[i].name());
  return device.get();
}

bool is_generator(const c10::Argument& argument) {
  const auto type = argument.type();
  const auto optional = type->cast<c10::OptionalType>();
  return (optional ? optional->getElementType() : type)->kind() == c10::TypeKind::GeneratorType;
}

OptionalTensors view_all(const std::vector<std::optional<Tensor>>& tensors, HostViews& views) {
  OptionalTensors seen;
  for (const auto& tensor : tensors)
    seen.push_back(tensor ? std::optional(views.view(*tensor)) : std::nullopt);
  return seen;
}

c10::List<Tensor> view_all(const std::vector<Tensor>& tensors, HostViews& views) {
  c10::List<Tensor> seen;
  for (const auto& tensor : tensors) seen.push_back(views.view(tensor));
  return seen;
}

// What the CPU kernel gets for one argument.
c10::IValue to_host(const c10::IValue& value, const c10::Argument& argument, c10::Device device,
                    HostViews& views) {
  if (value.isTensor())
    return argument.is_out() ? views.output(value.toTensor()) : views.view(value.toTensor());
  if (value.isTensorList()) return view_all(value.toTensorVector(), views);
  if (value.isOptionalTensorList()) return view_all(value.toOptionalTensorVector(), views);
  if (value.isDevice()) return c10::Device(at::kCPU);
  if (is_generator(argument))
    return host_generator(value.isNone() ? default_generator(device.index())
                                         : value.toGenerator());
  return value;
}

c10::IValue from_host(const c10::IValue& value, const HostViews& views) {
  if (value.isTensor()) return views.restore(value.toTensor());
  if (!value.isTensorList()) return value;
  c10::List<Tensor> restored;
  for (const Tensor& tensor : value.toTensorVector()) restored.push_back(views.restore(tensor));
  return restored;
}

// ---- kernels

// Stands for every operator without a kernel of its own here. torch's own at::native::cpu_fallback
// would give `1 - x` back on the CPU, taking the device of the first tensor, and copy each operand.
void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  require_kernel(schema.operator_name());
  const auto num_arguments = schema.arguments().size();
  const auto device = common_device(schema, torch::jit::last(*stack, num_arguments));
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  HostViews views(device);
  for (size_t i = 0; i < num_arguments; ++i) {
    auto& value = torch::jit::peek(*stack, i, num_arguments);
    value = to_host(value, schema.arguments()[i], device, views);
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  views.write_outputs();
  const auto num_returns = schema.returns().size();
  for (size_t i = 0; i < num_returns; ++i) {
    auto& value = torch::jit::peek(*stack, i, num_returns);
    value = from_host(value, views);
  }
}

// The generic road would lead to kernels that only say that a backend has to bring its own.
Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                   at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                   bool transposed, at::IntArrayRef output_padding, int64_t groups) {
  const char* name = "aten::convolution_overrideable";
  require_kernel({name, ""});
  CommonDevice device(name);
  device.add(input, "input");
  device.add(weight, "weight");
  if (bias) device.add(*bias, "bias");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const auto host_bias = bias ? std::optional(host_view(*bias)) : std::nullopt;
  return to_device(at::convolution(host_view(input), host_view(weight), host_bias, stride, padding,
                                   dilation, transposed, output_padding, groups),
                   device.get());
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> wanted) {
  const char* name = "aten::convolution_backward_overrideable";
  require_kernel({name, ""});
  CommonDevice device(name);
  device.add(grad_output, "grad_output");
  device.add(input, "input");
  device.add(weight, "weight");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const std::array bias_size{transposed ? weight.size(1) * groups : weight.size(0)};
  auto [input_grad, weight_grad, bias_grad] = at::convolution_backward(
      host_view(grad_output), host_view(input), host_view(weight), bias_size, stride, padding,
      dilation, transposed, output_padding, groups, wanted);
  const auto restore = [&](const Tensor& host) {
    return host.defined() ? to_device(host, device.get()) : host;
  };
  return {restore(input_grad), restore(weight_grad), restore(bias_grad)};
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("convolution_overrideable", convolution);
  library.impl("convolution_backward_overrideable", convolution_backward);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

}  // namespace

void set_missing_operators(const std::vector<std::string>& names, bool strict) {
  missing = {names.begin(), names.end()};
  is_strict = strict;
}

}  // namespace simulation
