// Devices, their random numbers, and what torch asks of an accelerator.
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/Device.h>

namespace simulation {

constexpr int kMaxDevices = 64;

void set_device_count(int count);
c10::DeviceIndex device_count();

// Each thread has its own current device.
c10::DeviceIndex current_device();
void set_device(int index);

// A device's generator draws from a CPU generator of its own, which this returns.
at::Generator host_generator(const at::Generator& generator);
const at::Generator& default_generator(c10::DeviceIndex device);

void register_hooks();

}  // namespace simulation
