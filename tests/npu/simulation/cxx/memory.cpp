#include "memory.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iomanip>
#include <map>
#include <mutex>
#include <sstream>

#include "device.h"

namespace simulation {
namespace {

constexpr size_t kAlignment = 64;

struct Account {
  int64_t live = 0;
  int64_t peak = 0;
};

std::mutex accounts_mutex;
std::array<Account, kMaxDevices> accounts;
std::atomic<int64_t> limit{0};

std::atomic<bool> was_used{false};
std::atomic<bool> bad_fork{false};

std::string in_units(int64_t bytes) {
  const bool large = bytes >= int64_t{1} << 30;
  std::ostringstream text;
  text << std::fixed << std::setprecision(2)
       << static_cast<double>(bytes) / static_cast<double>(1 << (large ? 30 : 20))
       << (large ? " GiB" : " MiB");
  return text.str();
}

// The sentence of torch_npu, which has been read from logs of real devices.
std::string out_of_memory(int64_t bytes, c10::DeviceIndex device, int64_t live) {
  std::ostringstream text;
  text << "NPU out of memory. Tried to allocate " << in_units(bytes) << " (NPU "
       << static_cast<int>(device) << "; " << in_units(limit) << " total capacity; "
       << in_units(live) << " already allocated; " << in_units(live) << " current active; "
       << in_units(std::max<int64_t>(limit - live, 0)) << " free; " << in_units(live)
       << " reserved in total by PyTorch) If reserved memory is >> allocated memory try setting "
          "max_split_size_mb to avoid fragmentation.";
  return text.str();
}

void take(int64_t bytes, c10::DeviceIndex device) {
  const std::lock_guard lock(accounts_mutex);
  auto& account = accounts.at(device);
  TORCH_CHECK_WITH(OutOfMemoryError, account.live + bytes <= limit,
                   out_of_memory(bytes, device, account.live));
  account.live += bytes;
  account.peak = std::max(account.peak, account.live);
}

void give_back(int64_t bytes, c10::DeviceIndex device) {
  const std::lock_guard lock(accounts_mutex);
  accounts.at(device).live -= bytes;
}

void* host_memory(size_t bytes) {
  void* address = nullptr;
  TORCH_CHECK_WITH(OutOfMemoryError, bytes == 0 || !posix_memalign(&address, kAlignment, bytes),
                   "the host has no memory left for the simulated NPU");
  return address;
}

struct Block {
  void* address;
  int64_t bytes;
  c10::DeviceIndex device;
};

void free_block(void* context) {
  const std::unique_ptr<Block> block(static_cast<Block*>(context));
  give_back(block->bytes, block->device);
  std::free(block->address);
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    TORCH_CHECK(!bad_fork,
                "Cannot re-initialize NPU in forked subprocess. To use NPU with multiprocessing, "
                "you must use the 'spawn' start method");
    was_used = true;
    const auto device = current_device();
    take(static_cast<int64_t>(bytes), device);
    auto* block = new Block{host_memory(bytes), static_cast<int64_t>(bytes), device};
    return {block->address, block, &free_block, c10::Device(kNPU, device)};
  }

  void copy_data(void* destination, const void* source, size_t count) const override {
    std::memcpy(destination, source, count);
  }
};

std::mutex pinned_mutex;
std::map<const void*, size_t> pinned_blocks;

void free_pinned(void* address) {
  const std::lock_guard lock(pinned_mutex);
  pinned_blocks.erase(address);
  std::free(address);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* address = host_memory(bytes);
    const std::lock_guard lock(pinned_mutex);
    pinned_blocks[address] = bytes;
    return {address, address, &free_pinned, c10::Device(c10::DeviceType::CPU)};
  }

  void copy_data(void* destination, const void* source, size_t count) const override {
    std::memcpy(destination, source, count);
  }
};

DeviceAllocator the_device_allocator;
PinnedAllocator the_pinned_allocator;

const int watching_forks =
    pthread_atfork(nullptr, nullptr, [] { bad_fork = bad_fork || was_used; });

}  // namespace

REGISTER_ALLOCATOR(kNPU, &the_device_allocator);

void limit_memory(int64_t bytes) { limit = bytes; }
int64_t memory_limit() { return limit; }

int64_t allocated_bytes(c10::DeviceIndex device) {
  const std::lock_guard lock(accounts_mutex);
  return accounts.at(device).live;
}

int64_t peak_bytes(c10::DeviceIndex device) {
  const std::lock_guard lock(accounts_mutex);
  return accounts.at(device).peak;
}

void reset_peak(c10::DeviceIndex device) {
  const std::lock_guard lock(accounts_mutex);
  accounts.at(device).peak = accounts.at(device).live;
}

c10::Allocator* device_allocator() { return &the_device_allocator; }
c10::Allocator* pinned_allocator() { return &the_pinned_allocator; }

bool is_pinned(const void* address) {
  const std::lock_guard lock(pinned_mutex);
  auto next = pinned_blocks.upper_bound(address);
  if (next == pinned_blocks.begin()) return false;
  const auto& [start, bytes] = *std::prev(next);
  return static_cast<const char*>(address) < static_cast<const char*>(start) + bytes;
}

bool is_in_bad_fork() { return bad_fork; }

}  // namespace simulation
