#include "device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "memory.h"

namespace simulation {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<int> num_devices{0};
std::atomic<int64_t> num_streams{0};

thread_local c10::DeviceIndex current = 0;
thread_local std::array<c10::StreamId, kMaxDevices> current_streams{};

// "npu" without a number means the current one.
c10::Device with_index(c10::Device device) {
  return device.has_index() ? device : c10::Device(kNPU, current);
}

// Everything has happened by the time a call returns, so waiting is nothing and a stream is a name.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = kNPU;

  c10::DeviceType type() const override { return kNPU; }
  c10::DeviceIndex deviceCount() const noexcept override { return device_count(); }
  c10::Device getDevice() const override { return {kNPU, current}; }
  void setDevice(c10::Device device) const override { set_device(device.index()); }

  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current = device.index();
  }

  c10::Device exchangeDevice(c10::Device device) const override {
    const auto previous = current;
    if (device.index() != previous) set_device(device.index());
    return {kNPU, previous};
  }

  c10::Stream getStream(c10::Device device) const override {
    const auto indexed = with_index(device);
    return c10::Stream(c10::Stream::UNSAFE, indexed, current_streams.at(indexed.index()));
  }

  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, with_index(device));
  }

  c10::Stream getNewStream(c10::Device device, int /*priority*/) const override {
    return c10::Stream(c10::Stream::UNSAFE, with_index(device), ++num_streams);
  }

  c10::Stream getStreamFromGlobalPool(c10::Device device, bool /*high*/) const override {
    return getNewStream(device, 0);
  }

  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto previous = getStream(stream.device());
    current_streams.at(stream.device_index()) = stream.id();
    return previous;
  }

  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}

  // An event is the moment it was recorded.
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    if (*event == nullptr) *event = new Clock::time_point;
    *static_cast<Clock::time_point*>(*event) = Clock::now();
  }

  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<Clock::time_point*>(event);
  }

  double elapsedTime(void* first, void* second, c10::DeviceIndex) const override {
    const std::chrono::duration<double, std::milli> elapsed =
        *static_cast<Clock::time_point*>(second) - *static_cast<Clock::time_point*>(first);
    return elapsed.count();
  }

  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct DeviceGenerator final : c10::GeneratorImpl {
  DeviceGenerator(c10::DeviceIndex device, at::Generator drawn_from)
      : GeneratorImpl({kNPU, device}, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        host(std::move(drawn_from)) {}

  explicit DeviceGenerator(c10::DeviceIndex device)
      : DeviceGenerator(device, at::make_generator<at::CPUGeneratorImpl>()) {}

  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_offset(uint64_t offset) override { host.set_offset(offset); }
  uint64_t get_offset() const override { return host.get_offset(); }

  void set_state(const c10::TensorImpl& state) override {
    host.unsafeGetGeneratorImpl()->set_state(state);
  }

  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return host.unsafeGetGeneratorImpl()->get_state();
  }

  GeneratorImpl* clone_impl() const override {
    return new DeviceGenerator(device_.index(), host.clone());
  }

  at::Generator host;
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return device_count() > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }

  c10::DeviceIndex deviceCount() const override { return device_count(); }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex index) const override { set_device(index); }

  c10::Allocator* getPinnedMemoryAllocator() const override { return pinned_allocator(); }
  bool isPinnedPtr(const void* address) const override { return is_pinned(address); }

  const at::Generator& getDefaultGenerator(c10::DeviceIndex device) const override {
    return default_generator(device < 0 ? current : device);
  }

  at::Generator getNewGenerator(c10::DeviceIndex device) const override {
    return at::make_generator<DeviceGenerator>(device < 0 ? current : device);
  }

  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    const c10::DeviceGuard guard(storage.device());
    auto larger = device_allocator()->allocate(bytes);
    std::memcpy(larger.mutable_get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(larger));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

}  // namespace

void set_device_count(int count) { num_devices = std::min(count, kMaxDevices); }
c10::DeviceIndex device_count() { return static_cast<c10::DeviceIndex>(num_devices.load()); }

c10::DeviceIndex current_device() { return current; }

void set_device(int index) {
  TORCH_CHECK(0 <= index && index < num_devices, "invalid NPU device index ", index, ": ",
              num_devices.load(), " visible");
  current = static_cast<c10::DeviceIndex>(index);
}

at::Generator host_generator(const at::Generator& generator) {
  TORCH_CHECK(generator.device().type() == kNPU,
              "Expected a 'npu' device type for generator but found '", generator.device().type(),
              "'");
  return static_cast<DeviceGenerator*>(generator.unsafeGetGeneratorImpl())->host;
}

const at::Generator& default_generator(c10::DeviceIndex device) {
  static const std::vector<at::Generator> generators = [] {
    std::vector<at::Generator> made;
    for (int index = 0; index < kMaxDevices; ++index)
      made.push_back(at::make_generator<DeviceGenerator>(static_cast<c10::DeviceIndex>(index)));
    return made;
  }();
  return generators.at(device);
}

void register_hooks() {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
}

}  // namespace simulation
