#include "hccl.h"

#include "memory.h"
#include "tensors.h"

namespace simulation {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;
using TensorLists = std::vector<Tensors>;
using WorkPointer = c10::intrusive_ptr<c10d::Work>;
using FuturePointer = c10::intrusive_ptr<c10::ivalue::Future>;

Tensors host_views(const Tensors& tensors) {
  Tensors views;
  for (const auto& tensor : tensors) {
    TORCH_CHECK(tensor.device().type() == kNPU, "hccl takes tensors of npu, not of ",
                tensor.device());
    views.push_back(host_view(tensor));
  }
  return views;
}

TensorLists host_views(const TensorLists& lists) {
  TensorLists views;
  for (const auto& list : lists) views.push_back(host_views(list));
  return views;
}

// What gloo is doing; its results are the tensors of the device.
class Collective final : public c10d::Work {
 public:
  Collective(WorkPointer gloo, Tensors results)
      : gloo_(std::move(gloo)), results_(std::move(results)) {}

  bool isCompleted() override { return gloo_->isCompleted(); }
  bool isSuccess() const override { return gloo_->isSuccess(); }
  std::exception_ptr exception() const override { return gloo_->exception(); }
  int sourceRank() const override { return gloo_->sourceRank(); }
  bool wait(std::chrono::milliseconds timeout) override { return gloo_->wait(timeout); }
  void synchronize() override { gloo_->synchronize(); }
  void abort() override { gloo_->abort(); }
  Tensors result() override { return results_; }

  FuturePointer getFuture() override {
    const auto finish = [results = results_](c10::ivalue::Future& gloo) -> c10::IValue {
      gloo.value();  // throws if gloo failed
      return results;
    };
    return gloo_->getFuture()->then(finish, c10::ListType::ofTensors());
  }

 private:
  WorkPointer gloo_;
  Tensors results_;
};

class Hccl final : public c10d::Backend {
 public:
  explicit Hccl(c10::intrusive_ptr<c10d::Backend> gloo)
      : Backend(gloo->getRank(), gloo->getSize()), gloo_(std::move(gloo)) {}

  const std::string getBackendName() const override { return "hccl"; }
  void setTimeout(std::chrono::milliseconds timeout) override { gloo_->setTimeout(timeout); }
  void abort() override { gloo_->abort(); }
  void shutdown() override { gloo_->shutdown(); }

  WorkPointer broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    auto views = host_views(tensors);
    return follow(gloo_->broadcast(views, options), tensors);
  }

  WorkPointer allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    auto views = host_views(tensors);
    return follow(gloo_->allreduce(views, options), tensors);
  }

  WorkPointer allreduce_coalesced(Tensors& tensors,
                                  const c10d::AllreduceCoalescedOptions& options) override {
    auto views = host_views(tensors);
    return follow(gloo_->allreduce_coalesced(views, options), tensors);
  }

  WorkPointer reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    auto views = host_views(tensors);
    return follow(gloo_->reduce(views, options), tensors);
  }

  WorkPointer allgather(TensorLists& outputs, Tensors& inputs,
                        const c10d::AllgatherOptions& options) override {
    auto output_views = host_views(outputs);
    auto input_views = host_views(inputs);
    return follow(gloo_->allgather(output_views, input_views, options), outputs.at(0));
  }

  WorkPointer _allgather_base(Tensor& output, Tensor& input,
                              const c10d::AllgatherOptions& options) override {
    auto views = host_views({output, input});
    return follow(gloo_->_allgather_base(views[0], views[1], options), {output});
  }

  WorkPointer gather(TensorLists& outputs, Tensors& inputs,
                     const c10d::GatherOptions& options) override {
    auto output_views = host_views(outputs);
    auto input_views = host_views(inputs);
    return follow(gloo_->gather(output_views, input_views, options),
                  outputs.empty() ? Tensors{} : outputs[0]);
  }

  WorkPointer scatter(Tensors& outputs, TensorLists& inputs,
                      const c10d::ScatterOptions& options) override {
    auto output_views = host_views(outputs);
    auto input_views = host_views(inputs);
    return follow(gloo_->scatter(output_views, input_views, options), outputs);
  }

  WorkPointer barrier(const c10d::BarrierOptions& options) override {
    return follow(gloo_->barrier(options), {});
  }

 private:
  static WorkPointer follow(WorkPointer gloo, Tensors results) {
    return c10::make_intrusive<Collective>(std::move(gloo), std::move(results));
  }

  c10::intrusive_ptr<c10d::Backend> gloo_;
};

}  // namespace

c10::intrusive_ptr<c10d::Backend> hccl_over(c10::intrusive_ptr<c10d::Backend> gloo) {
  return c10::make_intrusive<Hccl>(std::move(gloo));
}

}  // namespace simulation
