def test_a(run_python):
    assert run_python("import torch, torch_npu, json; print(json.dumps(torch.npu.device_count()))") == 2
