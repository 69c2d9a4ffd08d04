// Device memory, which is host memory with an account for each device.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>

namespace simulation {

constexpr auto kNPU = c10::DeviceType::PrivateUse1;

// Beyond `bytes` of live memory a device refuses to allocate.
void limit_memory(int64_t bytes);
int64_t memory_limit();

int64_t allocated_bytes(c10::DeviceIndex device);
int64_t peak_bytes(c10::DeviceIndex device);
void reset_peak(c10::DeviceIndex device);

// Allocates on the current device.
c10::Allocator* device_allocator();

// Host memory that `is_pinned` knows again; nothing locks its pages.
c10::Allocator* pinned_allocator();
bool is_pinned(const void* address);

// Whether this is a forked child of a process that had used a device: no NPU works there.
bool is_in_bad_fork();

}  // namespace simulation
